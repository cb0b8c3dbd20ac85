#pragma once
// For tests only: a directory that goes away with its owner, and Result in GoogleTest's words.
#include <stdlib.h>

#include <string>

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/error.h"

namespace berth::testing {

class TempDir {
 public:
  TempDir() {
    const char* base = ::getenv("TMPDIR");
    path_ = std::string(base ? base : "/tmp") + "/berth-test-XXXXXX";
    if (!::mkdtemp(path_.data())) ADD_FAILURE() << "mkdtemp " << path_ << ": " << ErrnoText(errno);
  }
  TempDir(const TempDir&) = delete;
  ~TempDir() {
    if (auto removed = RemoveTree(path_); !removed) ADD_FAILURE() << removed.error().what;
  }
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

template <class T>
::testing::AssertionResult IsOk(const Result<T>& result) {
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << CodeName(result.error().code) << ": " << result.error().what;
}
// The result is an error of this code whose text contains `part`.
template <class T>
::testing::AssertionResult IsErr(const Result<T>& result, Code code, std::string_view part = "") {
  if (result) return ::testing::AssertionFailure() << "a value instead of the error " << CodeName(code);
  const Error& e = result.error();
  if (e.code == code && e.what.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << CodeName(e.code) << ": " << e.what << "; wanted " << CodeName(code) << " with \"" << part << '"';
}

}  // namespace berth::testing
