#include "cri/streaming/websocket.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

namespace berth::cri::streaming {
namespace {

enum Opcode : uint8_t { kContinuation = 0, kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10 };
constexpr uint16_t kNormal = 1000;
constexpr size_t kDataPart = 32 << 10;

std::string Base64(std::string_view data) {
  std::string out(4 * ((data.size() + 2) / 3) + 1, '\0');
  const int n = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), reinterpret_cast<const unsigned char*>(data.data()),
                                static_cast<int>(data.size()));
  out.resize(static_cast<size_t>(n));
  return out;
}

Result<std::string> FromBase64(std::string_view text) {
  if (text.empty()) return std::string();
  std::string out(text.size(), '\0');
  const int n = text.size() % 4 == 0 ? EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                                       reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()))
                                     : -1;
  if (n < 0) return Err(Code::kInvalidArgument, "websocket: a message that is not base64");
  size_t padding = 0;
  while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
  out.resize(static_cast<size_t>(n) - padding);
  return out;
}

}  // namespace

std::string WebSocketAccept(std::string_view key) {
  const std::string text = std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";  // RFC 6455, 1.3
  unsigned char digest[SHA_DIGEST_LENGTH];
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  return Base64({reinterpret_cast<const char*>(digest), sizeof digest});
}

void WebSocket::Frame(uint8_t opcode, std::string_view payload) {
  if (said_goodbye_) return;
  out += static_cast<char>(0x80 | opcode);
  if (payload.size() < 126) {
    out += static_cast<char>(payload.size());
  } else if (payload.size() < 65536) {
    out += static_cast<char>(126);
    for (int shift = 8; shift >= 0; shift -= 8) out += static_cast<char>(payload.size() >> shift);
  } else {
    out += static_cast<char>(127);
    for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(payload.size() >> shift);
  }
  out += payload;
}

void WebSocket::Send(bool text, std::string_view data) { Frame(text ? kText : kBinary, data); }

void WebSocket::Close(uint16_t code, std::string_view reason) {
  std::string payload{static_cast<char>(code >> 8), static_cast<char>(code)};
  payload += reason.substr(0, 123);
  Frame(kClose, payload);
  said_goodbye_ = true;
}

Result<void> WebSocket::Take(std::string_view bytes, std::vector<Message>& messages, bool& closed) {
  in_ += bytes;
  size_t at = 0;
  auto byte = [&](size_t i) { return static_cast<uint8_t>(in_[at + i]); };
  while (in_.size() - at >= 2 && !closed) {
    const uint8_t opcode = byte(0) & 0x0f;
    const bool final = (byte(0) & 0x80) != 0;
    uint64_t size = byte(1) & 0x7f;
    size_t head = 2;
    if (size >= 126) {
      const size_t more = size == 126 ? 2 : 8;
      if (in_.size() - at < 2 + more) break;
      size = 0;
      for (size_t i = 0; i < more; ++i) size = size << 8 | byte(2 + i);
      head += more;
    }
    if ((byte(0) & 0x70) != 0) return Err(Code::kInvalidArgument, "websocket: reserved bits are set");
    if ((byte(1) & 0x80) == 0) return Err(Code::kInvalidArgument, "websocket: a client's frame without mask");
    if (opcode >= kClose && (size > 125 || !final)) return Err(Code::kInvalidArgument, "websocket: a control frame that is too long");
    if (size > kWebSocketMessageLimit || message_.size() + size > kWebSocketMessageLimit)
      return Err(Code::kInvalidArgument, "websocket: a message of more than {} bytes", kWebSocketMessageLimit);
    if (in_.size() - at < head + 4 + size) break;
    const std::string mask = in_.substr(at + head, 4);
    std::string payload = in_.substr(at + head + 4, size);
    for (size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<char>(payload[i] ^ mask[i % 4]);
    at += head + 4 + size;
    switch (opcode) {
      case kPing: Frame(kPong, payload); break;
      case kPong: break;
      case kClose:
        closed = true;
        if (!said_goodbye_) Frame(kClose, payload.substr(0, 2)), said_goodbye_ = true;
        break;
      case kText:
      case kBinary:
        if (opcode_ != 0) return Err(Code::kInvalidArgument, "websocket: a message within a message");
        opcode_ = opcode;
        [[fallthrough]];
      case kContinuation:
        if (opcode_ == 0) return Err(Code::kInvalidArgument, "websocket: a continuation of nothing");
        message_ += payload;
        if (!final) break;
        messages.push_back({opcode_ == kText, std::move(message_)});
        message_.clear();
        opcode_ = 0;
        break;
      default: return Err(Code::kInvalidArgument, "websocket: opcode {}", opcode);
    }
  }
  in_.erase(0, at);
  return {};
}

const ChannelProtocol* FindChannelProtocol(std::string_view name) {
  static constexpr ChannelProtocol kProtocols[] = {
      {"v5.channel.k8s.io", false, true, true}, {"v4.channel.k8s.io", false, true}, {"v4.base64.channel.k8s.io", true, true},
      {"channel.k8s.io"},                       {"base64.channel.k8s.io", true},    {""},
  };
  for (const ChannelProtocol& p : kProtocols)
    if (p.name == name) return &p;
  return nullptr;
}

namespace {

class Channels final : public Mux {
 public:
  Channels(const ChannelProtocol& protocol, std::vector<std::map<std::string, std::string>> channels)
      : protocol_(protocol), channels_(std::move(channels)), state_(channels_.size()) {
    for (size_t i = 0; i < channels_.size(); ++i)
      if (channels_[i].empty()) state_[i] = {true, true};
  }

  Result<void> Take(std::string_view bytes, std::vector<Event>& events) override {
    if (!told_) {
      for (size_t i = 0; i < channels_.size(); ++i)
        if (!channels_[i].empty()) events.push_back({Event::Kind::kOpened, static_cast<StreamId>(i), channels_[i]});
      told_ = true;
    }
    std::vector<WebSocket::Message> messages;
    bool closed = false;
    auto taken = socket_.Take(bytes, messages, closed);
    for (WebSocket::Message& m : messages) TRY(Message(m, events));
    Flush();
    TRY(std::move(taken));
    if (closed) events.push_back({Event::Kind::kClosed});
    return {};
  }

  void Send(StreamId stream, std::string_view data) override {
    if (stream >= state_.size() || state_[stream].ours_ended) return;
    for (; !data.empty(); data.remove_prefix(std::min(data.size(), kDataPart))) {
      std::string_view part = data.substr(0, kDataPart);
      if (protocol_.base64)
        socket_.Send(true, static_cast<char>('0' + stream) + Base64(part));
      else
        socket_.Send(false, static_cast<char>(stream) + std::string(part));
    }
    Flush();
  }
  // Only v5 has words for it, and only for the client's input; ours ends with the connection.
  void End(StreamId stream) override {
    if (stream < state_.size()) state_[stream].ours_ended = true;
  }
  void Reset(StreamId stream) override {
    if (stream < state_.size()) state_[stream] = {true, true};
  }
  void Close() override {
    socket_.Close(kNormal);
    Flush();
  }

 private:
  struct State {
    bool theirs_ended = false, ours_ended = false;
  };

  void Flush() {
    out += socket_.out;
    socket_.out.clear();
  }

  Result<void> Message(WebSocket::Message& m, std::vector<Event>& events) {
    if (m.data.empty()) return {};
    if (protocol_.base64 != m.text)
      return Err(Code::kInvalidArgument, "websocket: {} message where the protocol has {}", m.text ? "a text" : "a binary",
                 m.text ? "binary ones" : "text ones");
    auto channel = static_cast<unsigned char>(m.data[0]);
    if (protocol_.half_close && channel == 255) {
      if (m.data.size() != 2) return Err(Code::kInvalidArgument, "websocket: the end of a channel takes two bytes");
      channel = static_cast<unsigned char>(m.data[1]);
      if (channel < state_.size() && !state_[channel].theirs_ended) {
        state_[channel].theirs_ended = true;
        events.push_back({Event::Kind::kEnded, channel});
      }
      return {};
    }
    if (protocol_.base64) channel = static_cast<unsigned char>(channel - '0');
    if (channel >= state_.size()) return Err(Code::kInvalidArgument, "websocket: there is no channel {}", channel);
    if (state_[channel].theirs_ended) return {};
    std::string data = protocol_.base64 ? TRY(FromBase64(std::string_view(m.data).substr(1))) : m.data.substr(1);
    if (!data.empty()) events.push_back({Event::Kind::kData, channel, {}, std::move(data)});
    return {};
  }

  const ChannelProtocol& protocol_;
  std::vector<std::map<std::string, std::string>> channels_;
  std::vector<State> state_;
  WebSocket socket_;
  bool told_ = false;
};

class Tunnel final : public Mux {
 public:
  explicit Tunnel(std::unique_ptr<Mux> inner) : inner_(std::move(inner)) {}

  Result<void> Take(std::string_view bytes, std::vector<Event>& events) override {
    std::vector<WebSocket::Message> messages;
    bool closed = false;
    auto taken = socket_.Take(bytes, messages, closed);
    for (const WebSocket::Message& m : messages) {
      if (m.text) return Err(Code::kInvalidArgument, "websocket: a text message in a tunnel of bytes");
      TRY(inner_->Take(m.data, events));
    }
    Flush();
    TRY(std::move(taken));
    if (closed) events.push_back({Event::Kind::kClosed});
    return {};
  }
  void Send(StreamId stream, std::string_view data) override { inner_->Send(stream, data), Flush(); }
  void End(StreamId stream) override { inner_->End(stream), Flush(); }
  void Reset(StreamId stream) override { inner_->Reset(stream), Flush(); }
  void Close() override {
    inner_->Close();
    Flush();
    socket_.Close(kNormal);
    Flush();
  }

 private:
  void Flush() {
    for (std::string_view rest = inner_->out; !rest.empty(); rest.remove_prefix(std::min(rest.size(), kDataPart)))
      socket_.Send(false, rest.substr(0, kDataPart));
    inner_->out.clear();
    out += socket_.out;
    socket_.out.clear();
  }

  std::unique_ptr<Mux> inner_;
  WebSocket socket_;
};

}  // namespace

std::unique_ptr<Mux> MakeChannels(const ChannelProtocol& protocol, std::vector<std::map<std::string, std::string>> channels) {
  return std::make_unique<Channels>(protocol, std::move(channels));
}
std::unique_ptr<Mux> MakeTunnel(std::unique_ptr<Mux> inner) { return std::make_unique<Tunnel>(std::move(inner)); }

}  // namespace berth::cri::streaming
