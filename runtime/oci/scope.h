#pragma once
// A container's cgroup made by systemd (--systemd-cgroup). Internal to runtime/oci.
#include <string>
#include <utility>

#include "base/deadline.h"
#include "base/error.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::oci {

// The process that keeps a new scope alive until the container's first process is in it: a fork of ours that holds no
// descriptor, waits, and ends with this object (or with us).
class Holder {
 public:
  static Result<Holder> Fork();
  void End() { *this = Holder(); }
  Holder(Holder&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Holder& operator=(Holder&& other) noexcept {
    Kill();
    pid_ = std::exchange(other.pid_, -1);
    return *this;
  }
  ~Holder() { Kill(); }
  pid_t pid() const { return pid_; }

 private:
  Holder() = default;
  void Kill();
  pid_t pid_ = -1;
};

struct OpenedScope {
  Holder holder;
  std::string unit, cgroup;  // "berth-oci-a.scope"; its path below the cgroup mounts
};
// Asks systemd for the scope with the limits and annotations of the specification. Stop it when what follows fails.
Result<OpenedScope> OpenScope(const Spec& spec, const std::string& id, const Deadline& until);
Result<void> StopScope(const std::string& unit, const Deadline& until);
// Tells systemd of changed limits, before they are written: what it has no words for, and finer values, are the files'.
Result<void> UpdateScope(const std::string& unit, const Resources& resources, const Deadline& until);

}  // namespace berth::runtime::oci
