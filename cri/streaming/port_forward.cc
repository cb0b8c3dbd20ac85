#include "cri/streaming/port_forward.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <charconv>
#include <optional>

#include "cri/streaming/relay.h"

namespace berth::cri::streaming {
namespace {

struct Pair {
  std::optional<StreamId> error, data;
  uint16_t port = 0;
  unique_fd from;    // the connection, for reading
  Sink to;           // the same, for writing
  bool dialled = false;
  std::string early;  // what the client sent before its pair was complete
  bool early_end = false;
};

class Forward {
 public:
  Forward(Wire& wire, Mux& mux, std::string early, bool announce, const Dial& dial, const Deadline& stop)
      : relay_(wire, mux, std::move(early)), mux_(mux), announce_(announce), dial_(dial), stop_(stop) {}

  Result<void> Run() {
    while (true) {
      const bool room = relay_.Roomy();
      bool hungry = true;
      std::vector<pollfd> fds;
      std::vector<std::string> whose;
      for (auto& [id, pair] : pairs_) {
        if (pair.to.pending.size() >= kBufferLimit) hungry = false;
        if (pair.from.valid() && room) fds.push_back({pair.from.get(), POLLIN, 0}), whose.push_back(id);
        if (pair.to.Wants()) fds.push_back({pair.to.fd.get(), POLLOUT, 0}), whose.push_back(id);
      }
      std::vector<Event> events;
      auto turned = relay_.Turn(fds, hungry, stop_.Sooner(kIdleLimit), events, "traffic of the forwarded ports");
      for (Event& e : events) {
        if (e.kind == Event::Kind::kClosed) {
          mux_.Close();
          relay_.Farewell(stop_);
          return {};
        }
        TRY(Handle(e));
      }
      if (!turned) return turned.error().code == Code::kUnavailable ? Result<void>() : turned;  // gone: the normal end
      for (size_t i = 0; i < fds.size(); ++i) {
        if (fds[i].revents == 0) continue;
        auto it = pairs_.find(whose[i]);
        if (it == pairs_.end()) continue;
        if (fds[i].events == POLLIN) Carry(it->second);
      }
      for (auto it = pairs_.begin(); it != pairs_.end();) {
        Pair& pair = it->second;
        if (!pair.to.Push()) pair.to.ended = true;
        const bool over = pair.dialled && !pair.from.valid() && !pair.to.fd.valid();
        if (over) Finish(pair);
        it = over ? pairs_.erase(it) : std::next(it);
      }
    }
  }

 private:
  Result<void> Handle(Event& e) {
    if (e.kind == Event::Kind::kOpened) return Open(e);
    auto it = std::find_if(pairs_.begin(), pairs_.end(), [&](const auto& p) { return p.second.data == e.stream; });
    if (it == pairs_.end()) return {};  // the error stream, or one whose pair is over
    Pair& pair = it->second;
    switch (e.kind) {
      case Event::Kind::kData:
        if (!pair.dialled)
          pair.early += e.data;
        else if (pair.to.fd.valid() && !pair.to.ended)
          pair.to.pending += e.data;
        return {};
      case Event::Kind::kEnded:
        (pair.dialled ? pair.to.ended : pair.early_end) = true;
        return {};
      case Event::Kind::kReset:
        pair.from.reset();
        pair.to = {};
        pair.dialled = true;
        return {};
      default: return {};
    }
  }

  Result<void> Open(Event& e) {
    const std::string& type = e.headers["streamtype"];
    const std::string& port = e.headers["port"];
    std::string id = e.headers["requestid"];
    uint16_t number = 0;
    auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (error != std::errc() || end != port.data() + port.size() || number == 0)
      return Err(Code::kInvalidArgument, "port-forward: port \"{}\": must be 1 to 65535", port.substr(0, 16));
    if (type != "error" && type != "data") return Err(Code::kInvalidArgument, "port-forward: a stream of type \"{}\"", type.substr(0, 64));
    if (id.empty()) id = std::to_string(type == "error" ? e.stream : e.stream - 2);  // clients before 1.3 send none
    if (!pairs_.contains(id) && pairs_.size() >= kForwardLimit) {
      mux_.Reset(e.stream);
      return {};
    }
    Pair& pair = pairs_[id];
    auto& role = type == "error" ? pair.error : pair.data;
    if (role) return Err(Code::kInvalidArgument, "port-forward: request {}: a second {} stream", id.substr(0, 32), type);
    role = e.stream;
    pair.port = number;
    if (announce_) mux_.Send(e.stream, std::string{static_cast<char>(number), static_cast<char>(number >> 8)});
    if (!pair.error || !pair.data) return {};
    auto connected = dial_(number);
    if (!connected) {
      mux_.Send(*pair.error, connected.error().what);
      mux_.End(*pair.error);
      mux_.Reset(*pair.data);
      pairs_.erase(id);
      return {};
    }
    const int copy = ::fcntl(connected->get(), F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return SysErr("duplicate the descriptor of a forwarded connection");
    ::fcntl(copy, F_SETFL, ::fcntl(copy, F_GETFL) | O_NONBLOCK);
    pair.from = std::move(*connected);
    pair.to.fd.reset(copy);
    pair.to.socket = true;
    pair.to.pending = std::move(pair.early);
    pair.to.ended = pair.early_end;
    pair.dialled = true;
    return {};
  }

  void Carry(Pair& pair) {
    switch (Pull(pair.from.get(), part_)) {
      case Pulled::kData: mux_.Send(*pair.data, part_); return;
      case Pulled::kNothing: return;
      case Pulled::kEnd:
        pair.from.reset();
        mux_.End(*pair.data);
        // The pod's side is done; what the client still has for it can only be lost when it has closed for good, and a client
        // that waits for our end of both streams would wait for ever.
        if (pair.to.pending.empty()) pair.to.fd.reset();
        pair.to.ended = true;
        return;
    }
  }

  void Finish(Pair& pair) {
    if (pair.data) mux_.End(*pair.data);
    if (pair.error) mux_.End(*pair.error);
  }

  Relay relay_;
  Mux& mux_;
  const bool announce_;
  const Dial& dial_;
  const Deadline& stop_;
  std::map<std::string, Pair> pairs_;
  std::string part_;
};

}  // namespace

Result<void> ServeForward(Wire& wire, Mux& mux, std::string early, bool announce, const Dial& dial, const Deadline& stop) {
  return Forward(wire, mux, std::move(early), announce, dial, stop).Run();
}

}  // namespace berth::cri::streaming
