#include "cni/ipam.h"

namespace berth::cni {

const Range* RangeOf(const RangeSet& set, const Ip& ip) {
  for (const Range& r : set)
    if (r.Has(ip)) return &r;
  return nullptr;
}

Gaps::Gaps(const RangeSet& set) : set_(set) {
  for (size_t i = 0; i < set_.size(); ++i) free_[set_[i].start.value] = {set_[i].end.value, i};
  for (const Range& r : set_)
    if (r.Has(r.gateway)) TakeExactly(r.gateway);
}

void Gaps::Carve(std::map<Uint128, Span>::iterator it, Uint128 at) {
  Uint128 start = it->first;
  Span span = it->second;
  free_.erase(it);
  if (start < at) free_[start] = {at - 1, span.range};
  if (at < span.end) free_[at + 1] = {span.end, span.range};
}

bool Gaps::TakeExactly(const Ip& ip) {
  if (!RangeOf(set_, ip)) return false;
  auto it = free_.upper_bound(ip.value);
  if (it == free_.begin()) return false;
  --it;
  if (it->second.end < ip.value) return false;
  Carve(it, ip.value);
  return true;
}

std::optional<Ip> Gaps::Take(const std::optional<Ip>& last) {
  if (set_.empty() || free_.empty()) return std::nullopt;
  int family = set_[0].start.family;
  auto it = free_.end();
  if (last && RangeOf(set_, *last)) {
    it = free_.upper_bound(last->value);
    if (it != free_.begin()) {
      auto before = std::prev(it);
      if (before->second.end > last->value) {  // the gap around `last`
        Uint128 at = last->value + 1;
        Carve(before, at);
        return Ip{family, at};
      }
    }
    // Within the range of `last` first, then the following ranges of the set, which may be listed out of order.
    size_t range = RangeOf(set_, *last) - set_.data();
    if (it == free_.end() || it->second.range != range) {
      it = free_.end();
      for (size_t i = 1; i <= set_.size() && it == free_.end(); ++i) {
        const Range& next = set_[(range + i) % set_.size()];
        auto first = free_.lower_bound(next.start.value);
        if (first != free_.end() && first->first <= next.end.value) it = first;
      }
    }
  } else {
    for (size_t i = 0; i < set_.size() && it == free_.end(); ++i) {
      auto first = free_.lower_bound(set_[i].start.value);
      if (first != free_.end() && first->first <= set_[i].end.value) it = first;
    }
  }
  if (it == free_.end()) return std::nullopt;
  Uint128 at = it->first;
  Carve(it, at);
  return Ip{family, at};
}

void Gaps::Free(const Ip& ip) {
  const Range* range = RangeOf(set_, ip);
  if (!range || range->gateway == ip) return;
  size_t index = range - set_.data();
  auto next = free_.upper_bound(ip.value);
  Uint128 start = ip.value, end = ip.value;
  if (next != free_.begin()) {
    auto before = std::prev(next);
    if (before->second.end >= ip.value) return;
    if (before->second.range == index && before->second.end + 1 == ip.value) {
      start = before->first;
      free_.erase(before);
    }
  }
  if (next != free_.end() && next->second.range == index && next->first == ip.value + 1) {
    end = next->second.end;
    free_.erase(next);
  }
  free_[start] = {end, index};
}

}  // namespace berth::cni
