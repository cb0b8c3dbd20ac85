#pragma once
// Streams of the agent service. gRPC's callbacks only hand over; the work is one task of the worker pool that may
// block. A stream deletes itself in OnDone, which gRPC calls after Finish and after the last callback.
#include <condition_variable>
#include <deque>

#include "cri/unary.h"

namespace berth::cri {

// Answers go out one after another. Write waits until gRPC took the message, so a slow client slows the writer; Offer
// never waits and keeps only the newest message of a key, so a slow client misses steps in between.
template <class Response>
class AnswerStream final : public grpc::ServerWriteReactor<Response> {
 public:
  AnswerStream(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context) : frame_(door, rpc, context) {}

  // `request` is gRPC's and lives until OnDone.
  template <class Request>
  void Start(const Request* request, Result<void> (*body)(Door&, const Request&, AnswerStream&, Call&)) {
    auto submitted = frame_.door().pool.Submit([this, request, body] {
      grpc::Status status = frame_.Run(request, [&](Call& call) { return body(frame_.door(), *request, *this, call); });
      Flush();
      this->Finish(status);
    });
    if (!submitted) this->Finish(frame_.Refuse(submitted.error()));
  }

  // False: the client is gone.
  bool Write(Response message) {
    Offer("", std::move(message));
    return Flush();
  }
  void Offer(const std::string& key, Response message) {
    std::lock_guard lock(mutex_);
    auto waiting = std::ranges::find_if(waiting_, [&](const auto& w) { return !key.empty() && w.first == key; });
    if (waiting != waiting_.end())
      waiting->second = std::move(message);
    else
      waiting_.emplace_back(key, std::move(message));
    Next();
  }
  bool Flush() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return gone_ || (!writing_ && waiting_.empty()); });
    return !gone_;
  }

  const std::shared_ptr<CancelToken>& token() const { return frame_.token(); }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    gone_ = gone_ || !ok;
    Next();
    changed_.notify_all();
  }
  void OnCancel() override { frame_.Cancelled(); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (writing_ || gone_ || waiting_.empty()) return;
    current_ = std::move(waiting_.front().second);
    waiting_.pop_front();
    writing_ = true;
    this->StartWrite(&current_);
  }

  CallFrame frame_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<std::string, Response>> waiting_;
  Response current_;
  bool writing_ = false, gone_ = false;
};

// Requests come in one after another; Read waits for the next.
template <class Request, class Response>
class RequestStream final : public grpc::ServerReadReactor<Request> {
 public:
  RequestStream(Door& door, const Rpc& rpc, grpc::CallbackServerContext* context) : frame_(door, rpc, context) {}

  void Start(Response* response, Result<void> (*body)(Door&, RequestStream&, Response&, Call&)) {
    auto submitted = frame_.door().pool.Submit([this, response, body] {
      this->Finish(frame_.Run(nullptr, [&](Call& call) { return body(frame_.door(), *this, *response, call); }));
    });
    if (!submitted) this->Finish(frame_.Refuse(submitted.error()));
  }

  // False: the client has said all, or is gone (then the call's deadline is cancelled, now or in a moment).
  bool Read(Request& message) {
    std::unique_lock lock(mutex_);
    if (ended_) return false;
    done_ = false;
    this->StartRead(&message);
    changed_.wait(lock, [&] { return done_; });
    return !ended_;
  }

  const std::shared_ptr<CancelToken>& token() const { return frame_.token(); }

  void OnReadDone(bool ok) override {
    std::lock_guard lock(mutex_);
    done_ = true;
    ended_ = !ok;
    changed_.notify_all();
  }
  void OnCancel() override { frame_.Cancelled(); }
  void OnDone() override { delete this; }

 private:
  CallFrame frame_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false, ended_ = false;
};

}  // namespace berth::cri
