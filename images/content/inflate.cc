#include "images/content/inflate.h"

#include <isa-l/igzip_lib.h>
#include <zstd.h>

namespace berth::images {
namespace {

constexpr size_t kOut = 256 << 10;
constexpr size_t kHead = 6;  // enough for every signature below

}  // namespace

class Inflater::Format {
 public:
  virtual ~Format() = default;
  virtual Result<void> Feed(std::string_view bytes, const Sink& sink) = 0;
  virtual Result<void> Finish() = 0;
};

class Inflater::Plain : public Format {
 public:
  Result<void> Feed(std::string_view bytes, const Sink& sink) override { return sink(bytes); }
  Result<void> Finish() override { return {}; }
};

class Inflater::Gzip : public Format {
 public:
  Gzip() : out_(kOut) { Reset(); }

  Result<void> Feed(std::string_view bytes, const Sink& sink) override {
    state_.next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(bytes.data()));
    state_.avail_in = 0;
    size_t rest = bytes.size();
    while (true) {
      if (state_.avail_in == 0 && rest > 0) {
        state_.avail_in = static_cast<uint32_t>(std::min<size_t>(rest, 1u << 30));
        rest -= state_.avail_in;
      }
      if (between_) {
        // Between members: zero padding (tape blocks) is passed over, anything else must be another member.
        while (state_.avail_in > 0 && *state_.next_in == 0) ++state_.next_in, --state_.avail_in;
        if (state_.avail_in == 0) {
          if (rest == 0) return {};
          continue;
        }
        const uint8_t* next = state_.next_in;
        const uint32_t have = state_.avail_in;
        Reset();
        state_.next_in = const_cast<uint8_t*>(next);
        state_.avail_in = have;
        between_ = false;
      }
      if (state_.avail_in == 0 && !more_) return {};
      state_.next_out = reinterpret_cast<uint8_t*>(out_.data());
      state_.avail_out = static_cast<uint32_t>(out_.size());
      int rc = isal_inflate(&state_);
      size_t got = out_.size() - state_.avail_out;
      if (rc < 0) return Err(Code::kInvalidArgument, "malformed gzip data: {}", Reason(rc));
      if (got > 0) TRY(sink(std::string_view(out_.data(), got)));
      more_ = state_.avail_out == 0;  // then there may be output left although the input is used up
      if (state_.block_state == ISAL_BLOCK_FINISH) {
        between_ = true;
        more_ = false;
      } else if (got == 0 && state_.avail_in == 0 && rest == 0) {
        return {};
      }
    }
  }
  Result<void> Finish() override {
    if (!between_) return Err(Code::kInvalidArgument, "gzip data ends in the middle");
    return {};
  }

 private:
  void Reset() {
    isal_inflate_init(&state_);
    state_.crc_flag = ISAL_GZIP;
    more_ = false;
  }
  static const char* Reason(int rc) {
    switch (rc) {
      case ISAL_INVALID_BLOCK:
        return "invalid block";
      case ISAL_INVALID_SYMBOL:
        return "invalid symbol";
      case ISAL_INVALID_LOOKBACK:
        return "invalid lookback distance";
      case ISAL_INVALID_WRAPPER:
        return "invalid header";
      case ISAL_UNSUPPORTED_METHOD:
        return "unknown method";
      case ISAL_INCORRECT_CHECKSUM:
        return "checksum mismatch";
      default:
        return "invalid data";
    }
  }
  inflate_state state_;
  std::vector<char> out_;
  bool between_ = false;
  bool more_ = false;
};

class Inflater::Zstd : public Format {
 public:
  Zstd() : stream_(ZSTD_createDStream(), ZSTD_freeDStream), out_(kOut) {}

  Result<void> Feed(std::string_view bytes, const Sink& sink) override {
    if (!stream_) return Err(Code::kResourceExhausted, "no memory to decompress zstd data");
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    bool full = true;
    while (in.pos < in.size || full) {
      if (in.pos == in.size && left_ == 0) break;
      ZSTD_outBuffer out{out_.data(), out_.size(), 0};
      left_ = ZSTD_decompressStream(stream_.get(), &out, &in);
      if (ZSTD_isError(left_)) return Err(Code::kInvalidArgument, "malformed zstd data: {}", ZSTD_getErrorName(left_));
      if (out.pos > 0) TRY(sink(std::string_view(out_.data(), out.pos)));
      full = out.pos == out.size;
    }
    return {};
  }
  Result<void> Finish() override {
    if (left_ != 0) return Err(Code::kInvalidArgument, "zstd data ends in the middle");
    return {};
  }

 private:
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_;
  std::vector<char> out_;
  size_t left_ = 0;  // what the decoder still wants of the current frame
};

Inflater::Inflater(Sink sink) : sink_(std::move(sink)) {}
Inflater::~Inflater() = default;
Compression Inflater::kind() const { return kind_; }

Result<void> Inflater::Detect() {
  using namespace std::string_view_literals;
  std::string_view head = head_;
  if (head.starts_with("\x1f\x8b"sv)) {
    kind_ = Compression::kGzip;
    format_ = std::make_unique<Gzip>();
  } else if (head.starts_with("\x28\xb5\x2f\xfd"sv) ||
             (head.size() >= 4 && (head[0] & 0xf0) == 0x50 && head.substr(1, 3) == "\x2a\x4d\x18"sv)) {
    kind_ = Compression::kZstd;
    format_ = std::make_unique<Zstd>();
  } else if (head.starts_with("BZh"sv) || head.starts_with("\xfd"
                                                           "7zXZ"sv)) {
    return Err(Code::kUnimplemented, "compressed with {}; gzip, zstd and none are known",
               head[0] == 'B' ? "bzip2" : "xz");
  } else {
    format_ = std::make_unique<Plain>();
  }
  return format_->Feed(std::exchange(head_, {}), sink_);
}

Result<void> Inflater::Feed(std::string_view bytes) {
  if (format_) return bytes.empty() ? Result<void>() : format_->Feed(bytes, sink_);
  size_t take = std::min(bytes.size(), kHead - head_.size());
  head_.append(bytes.substr(0, take));
  if (head_.size() < kHead) return {};
  TRY(Detect());
  return Feed(bytes.substr(take));
}

Result<void> Inflater::Finish() {
  if (!format_) TRY(Detect());
  return format_->Finish();
}

}  // namespace berth::images
