#pragma once
// Layers arrive compressed in one of a few ways; this finds out which from the first bytes and passes the content on.
//
// gzip by ISA-L (several members allowed, as gzip writes them when files are joined), zstd (several frames, skippable
// ones too), or nothing. The media type is not asked: registries and builders get it wrong. Memory does not grow with
// the content.
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace berth::images {

enum class Compression { kNone, kGzip, kZstd };

class Inflater {  // one thread at a time
 public:
  using Sink = std::function<Result<void>(std::string_view)>;
  explicit Inflater(Sink sink);
  ~Inflater();
  // kInvalidArgument for malformed or unknown compressed data; an error of the sink comes back as it is.
  Result<void> Feed(std::string_view bytes);
  // kInvalidArgument when the data ends in the middle.
  Result<void> Finish();
  Compression kind() const;  // after Finish, or once four bytes have been fed

 private:
  class Format;
  class Plain;
  class Gzip;
  class Zstd;
  Result<void> Detect();
  Sink sink_;
  std::string head_;
  std::unique_ptr<Format> format_;
  Compression kind_ = Compression::kNone;
};

}  // namespace berth::images
