#pragma once
// The layers below one that is being made, as a mounted filesystem that is only mounted when somebody asks.
#include <functional>

#include "base/unique_fd.h"
#include "images/layers/tree.h"

namespace berth::images {

class MountedLowerView : public LowerView {
 public:
  using Mounter = std::function<Result<unique_fd>()>;  // a descriptor of the root; called at most once
  explicit MountedLowerView(Mounter mounter) : mounter_(std::move(mounter)) {}
  Result<std::optional<LowerNode>> Lookup(const std::string& path) override;
  Result<unique_fd> Open(const std::string& path) override;

 private:
  Result<unique_fd> Find(const std::string& path, int flags);  // an invalid descriptor when nothing is there
  Mounter mounter_;
  unique_fd root_;
};

}  // namespace berth::images
