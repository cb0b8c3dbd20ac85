#include "cri/streaming/spdy.h"

#include <zlib.h>

#include <optional>

namespace berth::cri::streaming {
namespace {

enum Type : uint16_t {
  kSynStream = 1,
  kSynReply = 2,
  kRstStream = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kHeaders = 8,
  kWindowUpdate = 9,
};
enum Status : uint32_t { kProtocolError = 1, kRefusedStream = 3, kCancel = 5 };
constexpr uint16_t kVersion = 3;
constexpr uint8_t kFin = 1;
constexpr size_t kDataPart = 32 << 10;  // our frames stay small, so that streams take turns

void Put16(std::string& to, uint32_t v) {
  to += static_cast<char>(v >> 8);
  to += static_cast<char>(v);
}
void Put32(std::string& to, uint32_t v) {
  Put16(to, v >> 16);
  Put16(to, v & 0xffff);
}
uint32_t Get32(std::string_view at) {
  auto b = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(at[i])); };
  return b(0) << 24 | b(1) << 16 | b(2) << 8 | b(3);
}
uint32_t Get16(std::string_view at) {
  return static_cast<uint32_t>(static_cast<unsigned char>(at[0])) << 8 | static_cast<unsigned char>(at[1]);
}

std::string ControlFrame(Type type, uint8_t flags, std::string_view body) {
  std::string frame;
  Put16(frame, 0x8000u | kVersion);
  Put16(frame, type);
  Put32(frame, static_cast<uint32_t>(flags) << 24 | static_cast<uint32_t>(body.size()));
  frame += body;
  return frame;
}

std::string DataFrame(StreamId stream, std::string_view data, bool last) {
  std::string frame;
  Put32(frame, stream);
  Put32(frame, (last ? static_cast<uint32_t>(kFin) << 24 : 0) | static_cast<uint32_t>(data.size()));
  frame += data;
  return frame;
}

// The dictionary that both sides prime zlib with (section 2.6.10.1): words with their lengths, then a tail without.
std::string MakeDictionary() {
  static constexpr std::string_view kWords[] = {
      "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding", "accept-language",
      "accept-ranges", "age", "allow", "authorization", "cache-control", "connection", "content-base", "content-encoding",
      "content-language", "content-length", "content-location", "content-md5", "content-range", "content-type", "date", "etag",
      "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
      "last-modified", "location", "max-forwards", "pragma", "proxy-authenticate", "proxy-authorization", "range", "referer",
      "retry-after", "server", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
      "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie",
      "keep-alive", "origin"};
  std::string out;
  for (std::string_view word : kWords) {
    Put32(out, static_cast<uint32_t>(word.size()));
    out += word;
  }
  return out +
         "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative "
         "Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal "
         "Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, "
         "Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/"
         "xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
}

const std::string& Dictionary() {
  static const std::string dictionary = MakeDictionary();
  return dictionary;
}

const Bytef* Bytes(std::string_view s) { return reinterpret_cast<const Bytef*>(s.data()); }

// Header blocks of one direction share one zlib stream.
class HeaderPacker {
 public:
  HeaderPacker() {
    good_ = deflateInit(&z_, Z_BEST_SPEED) == Z_OK &&
            deflateSetDictionary(&z_, Bytes(Dictionary()), static_cast<uInt>(Dictionary().size())) == Z_OK;
  }
  ~HeaderPacker() { deflateEnd(&z_); }
  HeaderPacker(const HeaderPacker&) = delete;

  std::string Pack(const std::map<std::string, std::string>& headers) {
    std::string block;
    Put32(block, static_cast<uint32_t>(headers.size()));
    for (const auto& [name, value] : headers) {
      Put32(block, static_cast<uint32_t>(name.size()));
      block += name;
      Put32(block, static_cast<uint32_t>(value.size()));
      block += value;
    }
    std::string out;
    out.resize(std::min<size_t>(deflateBound(&z_, block.size()), 16 << 20) + 64);
    if (!good_) return {};
    z_.next_in = const_cast<Bytef*>(Bytes(block));
    z_.avail_in = static_cast<uInt>(block.size());
    z_.next_out = reinterpret_cast<Bytef*>(out.data());
    z_.avail_out = static_cast<uInt>(out.size());
    deflate(&z_, Z_SYNC_FLUSH);
    out.erase(out.size() - std::min<size_t>(out.size(), z_.avail_out));
    return out;
  }

 private:
  z_stream z_{};
  bool good_ = false;
};

class HeaderUnpacker {
 public:
  HeaderUnpacker() { good_ = inflateInit(&z_) == Z_OK; }
  ~HeaderUnpacker() { inflateEnd(&z_); }
  HeaderUnpacker(const HeaderUnpacker&) = delete;

  Result<std::map<std::string, std::string>> Unpack(std::string_view packed) {
    std::string block;
    z_.next_in = const_cast<Bytef*>(Bytes(packed));
    z_.avail_in = static_cast<uInt>(packed.size());
    while (good_) {
      char part[4096];
      z_.next_out = reinterpret_cast<Bytef*>(part);
      z_.avail_out = sizeof part;
      int answer = inflate(&z_, Z_SYNC_FLUSH);
      if (answer == Z_NEED_DICT)
        answer = inflateSetDictionary(&z_, Bytes(Dictionary()), static_cast<uInt>(Dictionary().size())) == Z_OK ? Z_OK : Z_DATA_ERROR;
      if (answer != Z_OK && answer != Z_BUF_ERROR) good_ = false;
      block.append(part, sizeof part - z_.avail_out);
      if (block.size() > kSpdyHeaderLimit) return Err(Code::kInvalidArgument, "spdy: headers of more than {} bytes", kSpdyHeaderLimit);
      if (z_.avail_in == 0 && z_.avail_out > 0) break;
      if (answer == Z_BUF_ERROR) break;
    }
    if (!good_) return Err(Code::kInvalidArgument, "spdy: headers that zlib cannot read");
    return Parse(block);
  }

 private:
  static Result<std::map<std::string, std::string>> Parse(std::string_view block) {
    auto broken = [] { return Err(Code::kInvalidArgument, "spdy: a header block that ends too soon"); };
    auto text = [&]() -> std::optional<std::string> {
      if (block.size() < 4) return std::nullopt;
      const size_t size = Get32(block);
      block.remove_prefix(4);
      if (size > block.size()) return std::nullopt;
      std::string out(block.substr(0, size));
      block.remove_prefix(size);
      return out;
    };
    if (block.size() < 4) return broken();
    const uint32_t count = Get32(block);
    block.remove_prefix(4);
    std::map<std::string, std::string> headers;
    for (uint32_t i = 0; i < count; ++i) {
      auto name = text();
      auto value = name ? text() : std::nullopt;
      if (!value) return broken();
      for (char& c : *name)
        if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
      headers[*name] = value->substr(0, value->find('\0'));  // several values are set apart by NUL: the first counts
    }
    return headers;
  }

  z_stream z_{};
  bool good_ = false;
};

class Spdy final : public Mux {
 public:
  Result<void> Take(std::string_view bytes, std::vector<Event>& events) override {
    in_ += bytes;
    size_t at = 0;
    while (in_.size() - at >= 8) {
      std::string_view head(in_.data() + at, 8);
      const size_t length = Get32(head.substr(4)) & 0xffffff;
      if (length > kSpdyFrameLimit) return Err(Code::kInvalidArgument, "spdy: a frame of {} bytes; at most {} are taken", length, kSpdyFrameLimit);
      if (in_.size() - at - 8 < length) break;
      TRY(Frame(head, std::string_view(in_).substr(at + 8, length), events));
      at += 8 + length;
    }
    in_.erase(0, at);
    return {};
  }

  void Send(StreamId stream, std::string_view data) override {
    auto it = streams_.find(stream);
    if (it == streams_.end() || it->second.ours_ended) return;
    for (; !data.empty(); data.remove_prefix(std::min(data.size(), kDataPart))) out += DataFrame(stream, data.substr(0, kDataPart), false);
  }
  void End(StreamId stream) override {
    auto it = streams_.find(stream);
    if (it == streams_.end() || it->second.ours_ended) return;
    out += DataFrame(stream, {}, true);
    it->second.ours_ended = true;
    if (it->second.theirs_ended) streams_.erase(it);
  }
  void Reset(StreamId stream) override {
    if (streams_.erase(stream) > 0) SendReset(stream, kCancel);
  }
  void Close() override {
    std::string body;
    Put32(body, last_);
    Put32(body, 0);
    out += ControlFrame(kGoAway, 0, body);
  }

 private:
  struct Stream {
    bool theirs_ended = false, ours_ended = false;
  };

  void SendReset(StreamId stream, Status status) {
    std::string body;
    Put32(body, stream);
    Put32(body, status);
    out += ControlFrame(kRstStream, 0, body);
  }

  void Ended(StreamId stream, std::vector<Event>& events) {
    auto it = streams_.find(stream);
    if (it == streams_.end() || it->second.theirs_ended) return;
    it->second.theirs_ended = true;
    if (it->second.ours_ended) streams_.erase(it);
    events.push_back({Event::Kind::kEnded, stream});
  }

  Result<void> Frame(std::string_view head, std::string_view body, std::vector<Event>& events) {
    const bool last = (static_cast<uint8_t>(head[4]) & kFin) != 0;
    if ((static_cast<uint8_t>(head[0]) & 0x80) == 0) {
      const StreamId stream = Get32(head) & 0x7fffffff;
      auto it = streams_.find(stream);
      if (it == streams_.end() || it->second.theirs_ended) return {};  // late data of a stream that we reset
      if (!body.empty()) events.push_back({Event::Kind::kData, stream, {}, std::string(body)});
      if (last) Ended(stream, events);
      return {};
    }
    if ((Get16(head) & 0x7fff) != kVersion) return Err(Code::kInvalidArgument, "spdy: version {}, not 3", Get16(head) & 0x7fff);
    const uint32_t type = Get16(head.substr(2));
    auto need = [&](size_t size) -> Result<void> {
      if (body.size() < size) return Err(Code::kInvalidArgument, "spdy: a frame of type {} with {} bytes", type, body.size());
      return {};
    };
    switch (type) {
      case kSynStream: {
        TRY(need(10));
        const StreamId stream = Get32(body) & 0x7fffffff;
        auto headers = TRY(unpacker_.Unpack(body.substr(10)));  // also when it is refused: the zlib stream goes on
        if (stream % 2 == 0 || stream <= last_) return Err(Code::kInvalidArgument, "spdy: stream {} after {}", stream, last_);
        last_ = stream;
        if (streams_.size() >= kSpdyStreamLimit) {
          SendReset(stream, kRefusedStream);
          return {};
        }
        streams_[stream] = {};
        std::string reply;
        Put32(reply, stream);
        reply += packer_.Pack({});
        out += ControlFrame(kSynReply, 0, reply);
        events.push_back({Event::Kind::kOpened, stream, std::move(headers)});
        if (last) Ended(stream, events);
        return {};
      }
      case kHeaders: {
        TRY(need(4));
        TRY(unpacker_.Unpack(body.substr(4)));
        if (last) Ended(Get32(body) & 0x7fffffff, events);
        return {};
      }
      case kRstStream: {
        TRY(need(8));
        const StreamId stream = Get32(body) & 0x7fffffff;
        if (streams_.erase(stream) > 0) events.push_back({Event::Kind::kReset, stream});
        return {};
      }
      case kPing:
        TRY(need(4));
        if (Get32(body) % 2 == 1) out += ControlFrame(kPing, 0, body.substr(0, 4));  // the client's have odd numbers
        return {};
      case kGoAway:
        events.push_back({Event::Kind::kClosed});
        return {};
      default:  // SYN_REPLY to streams that we never open, SETTINGS, WINDOW_UPDATE and what is unknown
        return {};
    }
  }

  HeaderPacker packer_;
  HeaderUnpacker unpacker_;
  std::string in_;
  std::map<StreamId, Stream> streams_;
  StreamId last_ = 0;
};

}  // namespace

std::unique_ptr<Mux> MakeSpdy() { return std::make_unique<Spdy>(); }

struct SpdyClient::Packer : HeaderPacker {};
SpdyClient::SpdyClient() : packer_(std::make_unique<Packer>()) {}
SpdyClient::~SpdyClient() = default;

std::string SpdyClient::Open(StreamId stream, const std::map<std::string, std::string>& headers) {
  std::string body;
  Put32(body, stream);
  Put32(body, 0);
  Put16(body, 0);
  return ControlFrame(kSynStream, 0, body + packer_->Pack(headers));
}
std::string SpdyClient::Data(StreamId stream, std::string_view data, bool last) { return DataFrame(stream, data, last); }
std::string SpdyClient::Ping(uint32_t id) {
  std::string body;
  Put32(body, id);
  return ControlFrame(kPing, 0, body);
}
std::string SpdyClient::Reset(StreamId stream) {
  std::string body;
  Put32(body, stream);
  Put32(body, kCancel);
  return ControlFrame(kRstStream, 0, body);
}

}  // namespace berth::cri::streaming
