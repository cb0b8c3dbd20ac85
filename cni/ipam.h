#pragma once
// Which addresses of a range are free: a map of gaps, so that taking the next one round robin costs O(log gaps) however
// full the range is. Not thread-safe; the ledger holds the lock.
#include <map>
#include <optional>
#include <vector>

#include "cni/ip.h"

namespace berth::cni {

struct Range {  // of host-local, defaults filled in
  Subnet subnet;
  Ip start, end;  // inclusive
  Ip gateway;
  bool Has(const Ip& ip) const { return ip.family == start.family && start <= ip && ip <= end; }
  bool operator==(const Range&) const = default;
};
using RangeSet = std::vector<Range>;  // one address is taken from a set

class Gaps {
 public:
  explicit Gaps(const RangeSet& set);
  // The first free address after `last` in the order of the set, wrapping around; nothing when all are taken.
  std::optional<Ip> Take(const std::optional<Ip>& last);
  bool TakeExactly(const Ip& ip);  // false: taken or outside
  void Free(const Ip& ip);         // outside or free already: nothing happens
  size_t gaps() const { return free_.size(); }

 private:
  struct Span {
    Uint128 end;
    size_t range;  // gaps of neighbouring ranges never merge
  };
  void Carve(std::map<Uint128, Span>::iterator it, Uint128 at);
  RangeSet set_;
  std::map<Uint128, Span> free_;  // start -> inclusive end; one family per set
};

// The range of the set an address lies in, or null.
const Range* RangeOf(const RangeSet& set, const Ip& ip);

}  // namespace berth::cni
