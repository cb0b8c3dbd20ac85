#pragma once
// How a file's extents become EROFS chunks: equal power-of-two pieces of the file, each a hole, a run of whole tar
// blocks, or bytes that have to be copied because the tar holds them at no block boundary or only in part.
#include <cstdint>
#include <functional>
#include <vector>

#include "base/error.h"
#include "images/layers/tar.h"

namespace berth::images {

class Chunks {
 public:
  enum class Source { kTar, kCopy };  // kCopy: nothing is addressable, all data is copied
  enum class Kind { kHole, kTar, kCopy };
  struct Run {  // equal chunks in a row
    uint64_t first = 0, count = 0;
    Kind kind = Kind::kHole;
    uint64_t source = 0;  // kTar: tar offset of the first one
  };

  Chunks(uint64_t size, std::vector<Extent> extents, Source source);

  // Takes the chunk size with the smallest index: entries of 8 bytes and copied bytes.
  Result<void> Choose();
  void SetBits(int bits) { bits_ = bits; }
  int bits() const { return bits_; }
  uint64_t count() const { return Count(bits_); }
  uint64_t copied() const { return copied_; }  // bytes to copy, each chunk padded to a block; after Choose
  uint64_t cost() const { return cost_; }      // beyond one entry; after Choose
  uint64_t BytesIn(uint64_t chunk) const;      // less than a chunk only at the end of the file
  void ForEachRun(const std::function<void(const Run&)>& f) const { Walk(bits_, f); }
  const std::vector<Extent>& extents() const { return extents_; }
  std::vector<Extent>::const_iterator FirstAfter(uint64_t offset) const;  // the first extent that ends behind offset

 private:
  uint64_t Count(int bits) const { return ((size_ - 1) >> bits) + 1; }
  void Walk(int bits, const std::function<void(const Run&)>& f) const;

  uint64_t size_;
  std::vector<Extent> extents_;
  Source source_;
  int bits_ = 9;
  uint64_t copied_ = 0, cost_ = 0;
};

}  // namespace berth::images
