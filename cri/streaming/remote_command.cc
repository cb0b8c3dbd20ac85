#include "cri/streaming/remote_command.h"

#include <sys/socket.h>

#include "base/json.h"
#include "cri/streaming/relay.h"

namespace berth::cri::streaming {
namespace {

using std::chrono::milliseconds;

// What children that keep a stream open may still write after the process has ended.
constexpr milliseconds kDrain{250};
constexpr size_t kSizeLimit = 4096;  // bytes of one resize message

class Command {
 public:
  Command(Wire& wire, Mux& mux, std::string early, const Streams& streams, bool status, Process& process, const Deadline& stop)
      : relay_(wire, mux, std::move(early)), mux_(mux), streams_(streams), status_(status), process_(process), stop_(stop) {}

  Result<void> Run() {
    const Deadline open = stop_.Sooner(kOpenLimit);
    std::vector<pollfd> none;
    while (!Complete()) TRY(Turn(none, open, "the client to open its streams"));
    auto started = process_.Start(rows_, columns_, stop_);
    Result<std::optional<int>> outcome = std::nullopt;
    if (started) {
      sink_.fd = std::move(process_.in);
      int type = 0;
      socklen_t size = sizeof type;
      sink_.socket = sink_.fd.valid() && ::getsockopt(sink_.fd.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0;
      sink_.ended = sink_.ended || !streams_.in;
      outcome = Loop();
      if (gone_) {
        process_.Abandon();
        return {};
      }
    } else {
      outcome = std::unexpected(std::move(started).error());
    }
    Say(outcome);
    relay_.Farewell(stop_);
    return outcome ? Result<void>() : std::unexpected(outcome.error());
  }

 private:
  bool Complete() const {
    return error_ && (!streams_.in || in_) && (!streams_.out || out_) && (!streams_.err || err_);
  }

  Result<void> Turn(std::vector<pollfd>& fds, const Deadline& limit, std::string_view waits_for) {
    std::vector<Event> events;
    auto turned = relay_.Turn(fds, sink_.pending.size() < kBufferLimit, limit, events, waits_for);
    for (Event& e : events) TRY(Handle(e));
    return turned;
  }

  Result<void> Handle(Event& e) {
    switch (e.kind) {
      case Event::Kind::kOpened: {
        const std::string& type = e.headers["streamtype"];
        auto* role = type == "error"                     ? &error_
                     : type == "stdin" && streams_.in    ? &in_
                     : type == "stdout" && streams_.out  ? &out_
                     : type == "stderr" && streams_.err  ? &err_
                     : type == "resize" && streams_.tty  ? &resize_
                                                         : nullptr;
        if (role == nullptr) return Err(Code::kInvalidArgument, "streaming: a stream of type \"{}\" was not asked for", type.substr(0, 64));
        if (*role) return Err(Code::kInvalidArgument, "streaming: a second stream of type \"{}\"", type);
        *role = e.stream;
        return {};
      }
      case Event::Kind::kData:
        if (in_ == e.stream && !sink_.ended) sink_.pending += e.data;
        if (resize_ == e.stream) Size(e.data);
        return {};
      case Event::Kind::kEnded:
      case Event::Kind::kReset:
        if (in_ == e.stream) sink_.ended = true;
        return {};
      case Event::Kind::kClosed: return Err(Code::kUnavailable, "the client closed the connection");
    }
    return {};
  }

  // {"Width":120,"Height":40}, one after another.
  void Size(const std::string& data) {
    sizes_ += data;
    uint16_t rows = 0, columns = 0;
    for (size_t end; (end = sizes_.find('}')) != std::string::npos; sizes_.erase(0, end + 1)) {
      auto size = json::ParseTree(sizes_.substr(0, end + 1), "resize");
      if (!size || !size->is_object()) continue;
      auto number = [&](const char* name) -> uint16_t {
        const auto* v = size->as_object().if_contains(name);
        boost::system::error_code ec;
        const auto n = v != nullptr ? v->to_number<int64_t>(ec) : 0;
        return ec || n < 0 || n > 65535 ? uint16_t{0} : static_cast<uint16_t>(n);
      };
      if (number("Height") > 0 && number("Width") > 0) rows = number("Height"), columns = number("Width");
    }
    if (sizes_.size() > kSizeLimit) sizes_.clear();
    if (rows == 0) return;
    rows_ = rows, columns_ = columns;
    if (running_) process_.Resize(rows, columns);
  }

  // Until the process is over and its output is out.
  Result<std::optional<int>> Loop() {
    running_ = true;
    std::optional<Result<std::optional<int>>> outcome;
    std::optional<Deadline> drain;
    while (!outcome || process_.out.valid() || process_.err.valid()) {
      if (drain && drain->expired()) break;
      if (!sink_.Push()) sink_.ended = true;  // nobody reads it: what still comes is dropped
      const bool room = relay_.Roomy();
      std::vector<pollfd> fds = {{room ? process_.out.get() : -1, POLLIN, 0},
                                 {room ? process_.err.get() : -1, POLLIN, 0},
                                 {sink_.Wants() ? sink_.fd.get() : -1, POLLOUT, 0},
                                 {outcome ? -1 : process_.news(), POLLIN, 0}};
      auto turned = Turn(fds, drain ? *drain : stop_.Sooner(kIdleLimit), "the command");
      if (!turned) {
        if (drain && turned.error().code == Code::kDeadlineExceeded) break;
        gone_ = turned.error().code != Code::kDeadlineExceeded;
        return std::unexpected(std::move(turned).error());
      }
      if (fds[0].revents != 0) Carry(process_.out, out_);
      if (fds[1].revents != 0) Carry(process_.err, err_);
      if (fds[3].revents != 0 && process_.Over()) outcome = process_.Outcome();
      // A client that takes its output slowly still gets it all: the time counts from when nothing is held.
      if (outcome && !drain && relay_.Roomy() && fds[0].revents == 0 && fds[1].revents == 0) drain = stop_.Sooner(kDrain);
      if (drain && (fds[0].revents != 0 || fds[1].revents != 0)) drain.reset();
    }
    return *outcome;
  }

  void Carry(unique_fd& from, const std::optional<StreamId>& to) {
    switch (Pull(from.get(), part_)) {
      case Pulled::kData:
        if (to) mux_.Send(*to, part_);
        return;
      case Pulled::kEnd: from.reset(); return;
      case Pulled::kNothing: return;
    }
  }

  void Say(const Result<std::optional<int>>& outcome) {
    if (out_) mux_.End(*out_);
    if (err_) mux_.End(*err_);
    const bool good = outcome && outcome->value_or(0) == 0;
    if (status_) {
      mux_.Send(*error_, StatusJson(outcome));
    } else if (!good) {
      mux_.Send(*error_, outcome ? fmt::format("command terminated with exit code {}", **outcome) : outcome.error().what);
    }
    mux_.End(*error_);
    if (in_) mux_.End(*in_);
    if (resize_) mux_.End(*resize_);
    mux_.Close();
  }

  Relay relay_;
  Mux& mux_;
  const Streams& streams_;
  const bool status_;
  Process& process_;
  const Deadline& stop_;
  std::optional<StreamId> error_, in_, out_, err_, resize_;
  Sink sink_;
  std::string sizes_, part_;
  uint16_t rows_ = 0, columns_ = 0;
  bool running_ = false, gone_ = false;
};

}  // namespace

std::string StatusJson(const Result<std::optional<int>>& outcome) {
  json::Object o;
  o["metadata"] = json::Object();
  if (!outcome) {
    o["status"] = "Failure";
    o["message"] = outcome.error().what;
    o["reason"] = "InternalError";
    o["code"] = 500;
  } else if (const int code = outcome->value_or(0); code != 0) {
    o["status"] = "Failure";
    o["message"] = fmt::format("command terminated with exit code {}", code);
    o["reason"] = "NonZeroExitCode";
    o["details"] = json::Object{{"causes", json::Array{json::Object{{"reason", "ExitCode"}, {"message", std::to_string(code)}}}}};
  } else {
    o["status"] = "Success";
  }
  return json::Serialize(o);
}

Result<void> ServeCommand(Wire& wire, Mux& mux, std::string early, const Streams& streams, bool status, Process& process,
                          const Deadline& stop) {
  return Command(wire, mux, std::move(early), streams, status, process, stop).Run();
}

}  // namespace berth::cri::streaming
