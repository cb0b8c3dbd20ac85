#include "images/layers/chunks.h"

#include <bit>

namespace berth::images {
namespace {

constexpr uint64_t kBlock = 512;
constexpr int kMinBits = 9, kMaxBits = 40;  // five bits above the block size

}  // namespace

Chunks::Chunks(uint64_t size, std::vector<Extent> extents, Source source) : size_(size), source_(source) {
  for (const Extent& e : extents) {
    if (!extents_.empty()) {
      Extent& last = extents_.back();
      if (last.offset + last.length == e.offset && last.source + last.length == e.source) {
        last.length += e.length;
        continue;
      }
    }
    extents_.push_back(e);
  }
}

uint64_t Chunks::BytesIn(uint64_t chunk) const { return std::min(uint64_t{1} << bits_, size_ - (chunk << bits_)); }

std::vector<Extent>::const_iterator Chunks::FirstAfter(uint64_t offset) const {
  return std::ranges::upper_bound(extents_, offset, {}, [](const Extent& e) { return e.offset + e.length; });
}

Result<void> Chunks::Choose() {
  int top = std::clamp(static_cast<int>(std::bit_width(size_ - 1)), kMinBits, kMaxBits);
  bits_ = top;
  cost_ = UINT64_MAX;
  // Larger chunks have fewer entries and more copying; once the entries alone cost more, smaller ones cannot win.
  for (int bits = top; bits >= kMinBits && Count(bits) * 8 < cost_; --bits) {
    uint64_t copied = 0;
    Walk(bits, [&](const Run& run) {
      if (run.kind != Kind::kCopy) return;
      uint64_t bytes = run.count << bits;
      uint64_t end = std::min((run.first + run.count) << bits, (size_ + kBlock - 1) & ~(kBlock - 1));
      copied += std::min(bytes, end - (run.first << bits));
    });
    uint64_t cost = Count(bits) * 8 + copied;
    if (cost >= cost_) continue;
    cost_ = cost;
    copied_ = copied;
    bits_ = bits;
  }
  cost_ -= 8;
  if (cost_ > uint64_t{1} << 42)
    return Err(Code::kInvalidArgument, "a sparse file of {} bytes cannot be indexed", size_);
  return {};
}

void Chunks::Walk(int bits, const std::function<void(const Run&)>& f) const {
  uint64_t chunk = uint64_t{1} << bits;
  uint64_t next = 0;  // the first chunk not reported yet
  Run pending;        // copied chunks in a row are one run
  auto emit = [&](Run run) {
    if (run.count == 0) return;
    next = run.first + run.count;
    if (pending.count > 0 && run.kind == Kind::kCopy && pending.kind == Kind::kCopy) {
      pending.count += run.count;
      return;
    }
    if (pending.count > 0) f(pending);
    pending = run;
  };
  for (const Extent& e : extents_) {
    uint64_t end = e.offset + e.length;
    uint64_t first = e.offset >> bits, last = (end - 1) >> bits;
    if (first > next) emit({next, first - next, Kind::kHole, 0});
    first = std::max(first, next);
    if (first > last) continue;
    // Chunks that lie wholly within this extent; the last of the file ends with the file.
    uint64_t low = std::max(first, (e.offset + chunk - 1) >> bits);
    uint64_t high = end == size_ ? last + 1 : end >> bits;
    bool aligned = (e.source - e.offset) % kBlock == 0;
    if (source_ == Source::kCopy || !aligned || low >= high) {
      emit({first, last + 1 - first, Kind::kCopy, 0});
      continue;
    }
    emit({first, low - first, Kind::kCopy, 0});
    emit({low, high - low, Kind::kTar, e.source + ((low << bits) - e.offset)});
    emit({high, last + 1 - high, Kind::kCopy, 0});
  }
  uint64_t total = Count(bits);
  if (next < total) emit({next, total - next, Kind::kHole, 0});
  if (pending.count > 0) f(pending);
}

}  // namespace berth::images
