#pragma once
// From linux.resources to control files: which file gets which text. Pure; cgroup_apply.cc writes.
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/linux/cgroup.h"
#include "runtime/oci/spec.h"

namespace berth::runtime::cgroup {

struct Setting {
  bool v2 = false;
  std::string controller;  // whose directory: "memory"
  std::string file, value;
  std::string member;  // of linux.resources, for errors: "memory.limit"
  // Another form of the same limit, for kernels without `file`: io.bfq.weight and io.weight.
  std::string other_file, other_value;
  bool if_there = false;  // a kernel without the file has nothing to limit
  // Files with a line for each device: whose line this is, and what takes it away. Undoing needs both.
  std::string key, clear;

  Setting& Or(std::string file_else, std::string value_else) {
    other_file = std::move(file_else);
    other_value = std::move(value_else);
    return *this;
  }
  Setting& Line(std::string of, std::string without) {
    key = std::move(of);
    clear = std::move(without);
    return *this;
  }
};

// In the order of writing; those of one controller stand together. Which version a controller has is the layout's word.
// Devices are not among them (devices.h). kInvalidArgument and kFailedPrecondition as Apply.
Result<std::vector<Setting>> SettingsOf(const Layout& layout, const oci::Resources& resources);

// io.weight from blkio's 10..1000: 1..10000.
uint64_t IoWeight(uint64_t weight);
// The line of `key` in a file with a line for each device ("8:0 rbps=max wbps=1"), whole; empty: there is none.
std::string LineOf(std::string_view text, std::string_view key);

}  // namespace berth::runtime::cgroup
