#pragma once
// Lays a start plan out: header, then strings and arrays in the order in which they are added. Internal to runtime/oci.
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "runtime/init/plan.h"

namespace berth::runtime::oci {

class PlanWriter {
 public:
  PlanWriter() : bytes_(sizeof(init::Plan), '\0') { bytes_.reserve(16384); }

  init::Plan plan;  // the header; written by Finish

  init::Str Text(std::string_view s) {  // also for the empty string
    auto at = static_cast<init::Str>(bytes_.size());
    bytes_.append(s);
    bytes_ += '\0';
    return at;
  }
  init::Str TextOrNone(std::string_view s) { return s.empty() ? 0 : Text(s); }

  template <class T>
  init::Slice Array(const std::vector<T>& items) {
    if (items.empty()) return {};
    bytes_.resize((bytes_.size() + 7) & ~size_t{7});
    init::Slice slice{static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(items.size())};
    bytes_.append(reinterpret_cast<const char*>(items.data()), items.size() * sizeof(T));
    return slice;
  }
  init::Slice Texts(const std::vector<std::string>& items) {
    std::vector<init::Str> at;
    at.reserve(items.size());
    for (const std::string& s : items) at.push_back(Text(s));
    return Array(at);
  }

  init::FdIndex Fd(unique_fd fd) {
    fds_.push_back(std::move(fd));
    return static_cast<init::FdIndex>(fds_.size() - 1);
  }

  std::string Finish(std::vector<unique_fd>* fds) {
    bytes_.resize((bytes_.size() + 7) & ~size_t{7});
    plan.size = static_cast<uint32_t>(bytes_.size());
    plan.fd_count = static_cast<uint32_t>(fds_.size());
    std::memcpy(bytes_.data(), &plan, sizeof plan);
    *fds = std::move(fds_);
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  std::vector<unique_fd> fds_;
};

}  // namespace berth::runtime::oci
