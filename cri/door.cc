#include "cri/door.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <google/protobuf/message.h>

#include "base/log.h"
#include "base/utf8.h"
#include "cri/check.h"
#include "cri/describe.h"
#include "runtime/handler_features.h"

namespace berth::cri {

HostFacts ProbeHost(const std::map<std::string, runtime::Handler>& handlers) {
  HostFacts facts;
  // Descriptor -1 with AT_EMPTY_PATH: EBADF where the call exists, ENOSYS where it does not.
  char none[32] = {};
  facts.recursive_read_only = ::syscall(SYS_mount_setattr, -1, "", 0x1000, none, sizeof none) == 0 || errno != ENOSYS;
  facts.handlers[""].recursive_read_only = facts.recursive_read_only;
  for (const auto& [name, handler] : handlers) {
    auto features = runtime::AskFeatures(handler, Deadline::After(std::chrono::seconds(5)));
    if (!features) log::Warn("handler.features", {{"handler", name}, {"error", features.error()}});
    facts.handlers[name].recursive_read_only = facts.recursive_read_only && features && features->recursive_read_only;
  }
  struct stat st;
  facts.selinux = ::stat("/sys/fs/selinux/enforce", &st) == 0;
  return facts;
}

void Calls::Enter(const void* call, std::shared_ptr<CancelToken> token, bool endless) {
  std::lock_guard lock(mutex_);
  if (draining_ && endless) token->Cancel();
  calls_[call] = {std::move(token), endless};
}

void Calls::Leave(const void* call) {
  std::lock_guard lock(mutex_);
  calls_.erase(call);
}

void Calls::CancelEndless() {
  std::lock_guard lock(mutex_);
  draining_ = true;
  for (auto& [call, entry] : calls_)
    if (entry.endless) entry.token->Cancel();
}

size_t Calls::running() const {
  std::lock_guard lock(mutex_);
  return calls_.size();
}

CallFrame::CallFrame(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context)
    : door_(door), rpc_(rpc), token_(std::make_shared<CancelToken>()), until_(Deadline::Never(token_)) {
  // gRPC's deadline is on the wall clock; a client without one sends the far future.
  auto left = context->deadline() - std::chrono::system_clock::now();
  if (left < std::chrono::hours(24 * 365)) {
    until_ = Deadline::After(std::max<Deadline::Duration>(left, Deadline::Duration::zero()), token_);
    client_deadline_ = since_ + left;
  }
  door_.calls.Enter(this, token_, rpc_.endless);
}

CallFrame::~CallFrame() { door_.calls.Leave(this); }

grpc::Status CallFrame::Run(const google::protobuf::Message* request, const std::function<Result<void>(Call&)>& body) {
  Call call{until_, {}, {}};
  Result<void> outcome;
  try {
    if (request != nullptr && log::Enabled(log::Level::kDebug))
      log::Debug("cri.request", {{"op", rpc_.name}, {"request", Describe(*request)}});
    if (request != nullptr) outcome = CheckShape(*request);
    if (outcome) outcome = until_.Check("a worker for the call");
    if (outcome) outcome = body(call);
  } catch (const std::exception& e) {  // libraries that throw, and memory that ran out
    outcome = Err(Code::kInternal, "{}: {}", rpc_.name, e.what());
  }
  // The client's deadline reaches us as a cancellation, often before our own clock sees it.
  if (!outcome && outcome.error().code == Code::kCancelled && client_deadline_ &&
      std::chrono::steady_clock::now() >= *client_deadline_ - std::chrono::milliseconds(1))
    outcome.error().code = Code::kDeadlineExceeded;
  return Close(call, outcome);
}

grpc::Status CallFrame::Refuse(const Error& error) { return Close(Call{until_, {}, {}}, std::unexpected(error)); }

grpc::Status CallFrame::Close(const Call& call, const Result<void>& outcome) {
  auto took = std::chrono::steady_clock::now() - since_;
  std::string_view code = outcome ? "ok" : CodeName(outcome.error().code);
  door_.metrics.ObserveOperation(std::string(rpc_.name), std::string(code), took);
  auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
  if (!outcome) {
    log::Warn(
        "cri.failed",
        {{"op", rpc_.name}, {"object", call.object}, {"code", code}, {"error", outcome.error()}, {"took_ms", ms}});
    return StatusOf(outcome.error(), call.kubelet_text);
  }
  if (rpc_.kind == Rpc::kChange)
    log::Info("cri.done", {{"op", rpc_.name}, {"object", call.object}, {"took_ms", ms}});
  else
    log::Debug("cri.done", {{"op", rpc_.name}, {"object", call.object}, {"took_ms", ms}});
  return grpc::Status::OK;
}

grpc::Status StatusOf(const Error& error, std::string_view kubelet_text) {
  std::string text = ToUtf8(error.what);
  if (!kubelet_text.empty()) text = fmt::format("{}: {}", kubelet_text, text);
  constexpr size_t kLimit = 2000;
  if (text.size() > kLimit) {
    size_t end = kLimit;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    text = text.substr(0, end) + "...";
  }
  int code = kubelet_text.empty() ? GrpcStatus(error.code) : grpc::StatusCode::UNKNOWN;
  return {static_cast<grpc::StatusCode>(code), text};
}

}  // namespace berth::cri
