#include <gtest/gtest.h>

#include "base/testing.h"
#include "cri/streaming/spdy.h"
#include "cri/streaming/tickets.h"
#include "cri/streaming/websocket.h"

namespace berth::cri::streaming {
namespace {

using berth::testing::IsErr;
using berth::testing::IsOk;
using Kind = Event::Kind;

std::vector<Event> Feed(Mux& mux, std::string_view bytes, size_t step = 0) {
  std::vector<Event> events;
  if (step == 0) step = std::max<size_t>(bytes.size(), 1);
  for (size_t at = 0; at < bytes.size() || at == 0; at += step) {
    auto taken = mux.Take(bytes.substr(std::min(at, bytes.size()), step), events);
    EXPECT_TRUE(IsOk(taken));
    if (!taken) break;
  }
  return events;
}

TEST(Spdy, StreamsDataAndHalfClose) {
  for (size_t step : {size_t{0}, size_t{1}, size_t{7}}) {
    SpdyClient client;
    std::string bytes = client.Open(1, {{"streamType", "error"}});
    bytes += client.Open(3, {{"Streamtype", "stdin"}, {"port", "80"}});
    bytes += SpdyClient::Data(3, "hello") + SpdyClient::Data(3, "", true) + SpdyClient::Reset(1);
    auto mux = MakeSpdy();
    auto events = Feed(*mux, bytes, step);
    ASSERT_EQ(events.size(), 5u) << step;
    EXPECT_EQ(events[0].headers.at("streamtype"), "error");
    EXPECT_EQ(events[1].headers.at("port"), "80");
    EXPECT_EQ(events[2].data, "hello");
    EXPECT_EQ(events[3].kind, Kind::kEnded);
    EXPECT_EQ(events[4].kind, Kind::kReset);
    EXPECT_EQ(events[4].stream, 1u);
  }
}

TEST(Spdy, EveryOpenGetsAReplyAndPingsAreAnswered) {
  SpdyClient client;
  auto mux = MakeSpdy();
  Feed(*mux, client.Open(1, {{"streamtype", "error"}}));
  ASSERT_GE(mux->out.size(), 12u);
  EXPECT_EQ(mux->out.substr(0, 4), std::string("\x80\x03\x00\x02", 4));
  EXPECT_EQ(mux->out.substr(8, 4), std::string("\0\0\0\1", 4));
  mux->out.clear();
  Feed(*mux, SpdyClient::Ping(7));
  EXPECT_EQ(mux->out, SpdyClient::Ping(7));
  mux->out.clear();
  Feed(*mux, SpdyClient::Ping(8));
  EXPECT_EQ(mux->out, "") << "an answer to a ping of ours";
}

TEST(Spdy, WhatWeSend) {
  SpdyClient client;
  auto mux = MakeSpdy();
  Feed(*mux, client.Open(1, {{"streamtype", "stdout"}}));
  mux->out.clear();
  mux->Send(1, std::string(70000, 'x'));
  EXPECT_EQ(mux->out, SpdyClient::Data(1, std::string(32768, 'x')) + SpdyClient::Data(1, std::string(32768, 'x')) + SpdyClient::Data(1, std::string(4464, 'x')));
  mux->out.clear();
  mux->End(1);
  mux->End(1);
  mux->Send(1, "late");
  EXPECT_EQ(mux->out, SpdyClient::Data(1, "", true));
  mux->out.clear();
  mux->Reset(1);
  EXPECT_EQ(mux->out, SpdyClient::Reset(1));
  mux->Send(99, "nobody");
  EXPECT_EQ(mux->out, SpdyClient::Reset(1));
}

TEST(Spdy, BadBytesAreNamed) {
  struct Case {
    std::string bytes;
    std::string_view says;
  } cases[] = {
      {std::string("\x80\x02\x00\x06\x00\x00\x00\x04\0\0\0\1", 12), "version 2"},
      {std::string("\x80\x03\x00\x06\x00\x00\x00\x02\0\0", 10), "type 6"},
      {std::string("\x80\x03\x00\x01\x00\xff\xff\xff", 8), "16777215 bytes"},
      {std::string("\x80\x03\x00\x01\x00\x00\x00\x0e\0\0\0\1\0\0\0\0\0\0garb", 22), "zlib"},
      {SpdyClient().Open(2, {}), "stream 2"},
  };
  for (const Case& c : cases) {
    auto mux = MakeSpdy();
    std::vector<Event> events;
    EXPECT_TRUE(IsErr(mux->Take(c.bytes, events), Code::kInvalidArgument, c.says));
  }
}

TEST(Spdy, HeadersThatGrowAreStopped) {
  auto mux = MakeSpdy();
  std::vector<Event> events;
  SpdyClient client;
  EXPECT_TRUE(IsErr(mux->Take(client.Open(1, {{"port", std::string(1 << 20, 'x')}}), events), Code::kInvalidArgument, "headers of more"));
}

TEST(Spdy, TooManyStreamsAreRefusedOneByOne) {
  auto mux = MakeSpdy();
  SpdyClient client;
  size_t opened = 0;
  for (StreamId i = 1; i < 2 * kSpdyStreamLimit + 20; i += 2) opened += Feed(*mux, client.Open(i, {{"streamtype", "data"}})).size();
  EXPECT_EQ(opened, kSpdyStreamLimit);
}

std::string Masked(uint8_t first, std::string payload) {
  std::string frame{static_cast<char>(first)};
  if (payload.size() < 126) {
    frame += static_cast<char>(0x80 | payload.size());
  } else {
    frame += static_cast<char>(0x80 | 126);
    frame += static_cast<char>(payload.size() >> 8);
    frame += static_cast<char>(payload.size());
  }
  const std::string mask = "\x11\x22\x33\x44";
  frame += mask;
  for (size_t i = 0; i < payload.size(); ++i) frame += static_cast<char>(payload[i] ^ mask[i % 4]);
  return frame;
}

TEST(WebSocket, AcceptKeyOfTheStandard) { EXPECT_EQ(WebSocketAccept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); }

TEST(WebSocket, MessagesFragmentsPingsAndClose) {
  WebSocket socket;
  std::vector<WebSocket::Message> messages;
  bool closed = false;
  std::string bytes = Masked(0x82, "one") + Masked(0x01, "tw") + Masked(0x89, "ping") + Masked(0x80, "o") + Masked(0x82, std::string(300, 'z')) + Masked(0x88, "\x03\xe8");
  for (char c : bytes) ASSERT_TRUE(IsOk(socket.Take(std::string(1, c), messages, closed)));
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].data, "one");
  EXPECT_EQ(messages[1].data, "two");
  EXPECT_TRUE(messages[1].text);
  EXPECT_EQ(messages[2].data.size(), 300u);
  EXPECT_TRUE(closed);
  EXPECT_EQ(socket.out, std::string("\x8a\x04ping\x88\x02\x03\xe8"));
}

TEST(WebSocket, BadFramesAreNamed) {
  struct Case {
    std::string bytes;
    std::string_view says;
  } cases[] = {{std::string("\x82\x01x", 3), "mask"},
               {std::string("\xc2\x81", 2), "reserved"},
               {std::string("\x89\xfe\x01\x00", 4), "control"},
               {std::string("\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xff", 10), "message of more"},
               {Masked(0x80, "x"), "continuation"},
               {Masked(0x02, "x") + Masked(0x82, "y"), "within"},
               {Masked(0x83, "x"), "opcode 3"}};
  for (const Case& c : cases) {
    WebSocket socket;
    std::vector<WebSocket::Message> messages;
    bool closed = false;
    EXPECT_TRUE(IsErr(socket.Take(c.bytes, messages, closed), Code::kInvalidArgument, c.says));
  }
}

const std::vector<std::map<std::string, std::string>> kChannels = {{{"streamtype", "stdin"}}, {{"streamtype", "stdout"}}, {}, {{"streamtype", "error"}}, {}};

TEST(Channels, FiveEndsOneChannel) {
  auto mux = MakeChannels(*FindChannelProtocol("v5.channel.k8s.io"), kChannels);
  auto events = Feed(*mux, Masked(0x82, std::string("\0hello", 6)) + Masked(0x82, std::string("\xff\0", 2)) + Masked(0x82, std::string("\0late", 5)));
  ASSERT_EQ(events.size(), 5u) << "three opened, data, end";
  EXPECT_EQ(events[2].headers.at("streamtype"), "error");
  EXPECT_EQ(events[3].data, "hello");
  EXPECT_EQ(events[4].kind, Kind::kEnded);
  mux->Send(1, "out");
  EXPECT_EQ(mux->out, std::string("\x82\x04\x01out", 6));
}

TEST(Channels, Base64IsText) {
  auto mux = MakeChannels(*FindChannelProtocol("base64.channel.k8s.io"), kChannels);
  auto events = Feed(*mux, Masked(0x81, "0aGVsbG8="));
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[3].data, "hello");
  mux->Send(1, "hi");
  EXPECT_EQ(mux->out, "\x81\x05"
                      "1aGk=");
  std::vector<Event> more;
  EXPECT_TRUE(IsErr(mux->Take(Masked(0x81, "0!!!!"), more), Code::kInvalidArgument, "base64"));
}

TEST(Channels, WrongKindsAreNamed) {
  std::vector<Event> events;
  auto four = MakeChannels(*FindChannelProtocol("v4.channel.k8s.io"), kChannels);
  EXPECT_TRUE(IsErr(four->Take(Masked(0x81, "0x"), events), Code::kInvalidArgument, "text"));
  auto five = MakeChannels(*FindChannelProtocol("v5.channel.k8s.io"), kChannels);
  EXPECT_TRUE(IsErr(five->Take(Masked(0x82, "\x09x"), events), Code::kInvalidArgument, "channel 9"));
  EXPECT_EQ(FindChannelProtocol("v6.channel.k8s.io"), nullptr);
}

TEST(Tunnel, SpdyInside) {
  auto mux = MakeTunnel(MakeSpdy());
  SpdyClient client;
  const std::string open = client.Open(1, {{"streamtype", "data"}});
  auto events = Feed(*mux, Masked(0x82, open.substr(0, 5)) + Masked(0x82, open.substr(5)));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, Kind::kOpened);
  EXPECT_EQ(mux->out[0], '\x82') << "the reply travels in a message";
}

TEST(Tickets, ServeOnceForAMinute) {
  FakeClock clock;
  Tickets tickets(clock);
  auto name = tickets.Add(ExecTicket{"c", {"ls"}, {}});
  ASSERT_TRUE(IsOk(name));
  EXPECT_EQ(name->size(), 32u);
  EXPECT_FALSE(tickets.Take("0123"));
  auto ticket = tickets.Take(*name);
  ASSERT_TRUE(ticket);
  EXPECT_EQ(std::get<ExecTicket>(*ticket).container, "c");
  EXPECT_FALSE(tickets.Take(*name));
  name = tickets.Add(AttachTicket{});
  clock.Advance(Tickets::kLife);
  EXPECT_FALSE(tickets.Take(*name));
}

TEST(Tickets, AreLimited) {
  FakeClock clock;
  Tickets tickets(clock);
  for (size_t i = 0; i < Tickets::kLimit; ++i) ASSERT_TRUE(IsOk(tickets.Add(AttachTicket{})));
  EXPECT_TRUE(IsErr(tickets.Add(AttachTicket{}), Code::kResourceExhausted, "1000"));
  clock.Advance(Tickets::kLife);
  EXPECT_TRUE(IsOk(tickets.Add(AttachTicket{})));
}

}  // namespace
}  // namespace berth::cri::streaming
