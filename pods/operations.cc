#include "pods/operations.h"

#include "base/failpoint.h"
#include "pods/core.h"

namespace berth::pods {

using std::chrono::steady_clock;

std::vector<OperationInfo> Operations::List() const {
  std::lock_guard lock(mutex_);
  std::vector<OperationInfo> out;
  out.reserve(running_.size());
  for (const auto& [id, info] : running_) out.push_back(info);
  return out;
}

size_t Operations::running() const {
  std::lock_guard lock(mutex_);
  return running_.size();
}

void Operations::SetHook(Hook hook) {
  std::lock_guard lock(mutex_);
  hook_ = hook ? std::make_shared<const Hook>(std::move(hook)) : nullptr;
}

Operation::Operation(Core& core, std::string_view verb, std::string subject)
    : Operation(core.operations, verb, std::move(subject)) {}

Operation::Operation(Operations& operations, std::string_view verb, std::string subject)
    : all_(operations), verb_(verb), stage_since_(steady_clock::now()) {
  std::lock_guard lock(all_.mutex_);
  id_ = all_.next_++;
  all_.running_[id_] = {.id = id_,
                        .verb = verb_,
                        .subject = std::move(subject),
                        .stage = "begin",
                        .words = {},
                        .blocker = {},
                        .since = stage_since_,
                        .stage_since = stage_since_};
}

Operation::~Operation() {
  std::lock_guard lock(all_.mutex_);
  all_.running_.erase(id_);
}

Result<void> Operation::Stage(std::string_view stage, std::string_view words) {
  words_ = words;
  stage_since_ = steady_clock::now();
  std::shared_ptr<const Operations::Hook> hook;
  {
    std::lock_guard lock(all_.mutex_);
    OperationInfo& info = all_.running_[id_];
    info.stage = stage;
    info.words = words;
    info.blocker.clear();
    info.stage_since = stage_since_;
    hook = all_.hook_;
  }
  if (kFailpointsArmed || hook) [[unlikely]] {
    std::string name = verb_ + "." + std::string(stage);
    Failpoint(name);
    if (auto r = FailpointError(name); !r) return Explain(std::move(r).error());
    if (hook)
      if (auto r = (*hook)(name); !r) return Explain(std::move(r).error());
  }
  return {};
}

void Operation::Blocker(std::string what) {
  std::lock_guard lock(all_.mutex_);
  all_.running_[id_].blocker = std::move(what);
}

std::unexpected<Error> Operation::Explain(Error e) const {
  if (words_.empty()) return std::unexpected(std::move(e));
  if (e.code == Code::kDeadlineExceeded || e.code == Code::kCancelled) {
    auto waited = std::chrono::duration<double>(steady_clock::now() - stage_since_).count();
    return Wrap(std::move(e), "{} ({:.1f} s in this stage)", words_, waited);
  }
  return Wrap(std::move(e), "{}", words_);
}

}  // namespace berth::pods
