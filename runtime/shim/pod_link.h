#pragma once
// One monitor as the agent sees it, and the thread that listens to all of them.
//
// `Links` owns two threads: `wire` reads every monitor's socket and watches its pidfd, and never waits for anybody;
// `news` calls back. A link's requests are written by the threads that make them, and answered by `wire`.
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "base/deadline.h"
#include "base/id.h"
#include "base/unique_fd.h"
#include "runtime/launcher.h"
#include "runtime/shim/agent_socket.h"

namespace berth::runtime {

class Links;

class PodLink : public std::enable_shared_from_this<PodLink> {
 public:
  using LateReply = std::function<void(PodLink&, const Packet&)>;

  PodLink(Links& links, PodId id, std::string run_dir, std::string state_dir)
      : id(std::move(id)), run_dir(std::move(run_dir)), state_dir(std::move(state_dir)), links_(links) {}

  const PodId id;
  const std::string run_dir, state_dir;

  // Takes over a connected socket and the monitor's pidfd, and is served by `wire` from now on.
  Result<void> Attach(unique_fd socket, unique_fd pidfd, pid_t monitor);
  // Connects to run_dir/shim.sock. kNotFound: nobody listens there.
  Result<void> Connect(const Deadline& until);
  void Detach();                        // closes the connection

  // Sends and waits for the whole answer. When it gives up waiting, `late` gets a success that comes after all (on the
  // wire thread: it must not wait).
  Result<std::vector<Packet>> Call(const Outgoing& request, const Deadline& until, std::string_view what,
                                   LateReply late = nullptr);
  // Sends without interest in the answer; gives up at once when the socket is full.
  void Post(const Outgoing& request);

  pid_t monitor() const;
  bool alive() const;                   // the monitor's process exists
  void Kill();                          // SIGKILL to the monitor
  Result<void> WaitGone(const Deadline& until);

  void SetStopping();                   // its end is wanted: no news of a loss
  void TellExit(const ExitFacts& facts);   // calls back, once for each container
  void Forget(const ContainerId& id);   // its exit may be told again (a new container of that id)
  // What Hello settled: the older minor version of the two. 0 until then.
  void Settle(uint16_t minor) { minor_ = minor; }
  uint32_t plan() const { return minor_ >= 1 ? 2 : 1; }   // newest start plan that the monitor takes (init/plan.h)
  bool facts() const { return minor_ >= 1; }   // kFacts instead of kList, and all else that came with 1.1
  // Containers that were paused: what must not be tried with them is not sent.
  void SetPaused(const ContainerId& id, bool paused);
  bool IsPaused(const ContainerId& id) const;
  unique_fd shm;                        // see protocol.h kFdShm; written before the link is shared
  bool own_net = false;                 // the pod has network and UTS namespaces of its own; as shm
  pid_t init = 0;                       // of the pod's PID namespace, 0: none; as shm

  // Containers of other runtimes (foreign_bundle.h). Thread-safe.
  bool IsForeign(const ContainerId& id) const;
  void SetForeign(const ContainerId& id, bool foreign);

 private:
  friend class Links;
  struct PendingCall {
    unique_fd done;                     // eventfd
    std::vector<Packet> parts;
    std::optional<Error> failed;
    bool finished = false;
    bool abandoned = false;
    LateReply late;
  };
  void OnReadable();                    // wire thread
  void OnGone();                        // wire thread: the monitor's process ended
  void Handle(Packet packet);
  void FailCalls(const Error& error);

  Links& links_;
  mutable std::mutex mutex_;
  std::shared_ptr<unique_fd> socket_;   // shared with senders that are outside the lock
  unique_fd pidfd_;
  pid_t monitor_ = -1;
  bool stopping_ = false, gone_ = false;
  bool heard_ = false;                  // the monitor has answered on this connection
  uint64_t token_ = 0;
  uint64_t next_request_ = 1;
  uint64_t relist_ = 0, rehello_ = 0;   // requests by which `wire` itself takes up a lost connection
  std::map<uint64_t, std::shared_ptr<PendingCall>> calls_;
  std::map<ContainerId, bool> told_;
  std::set<ContainerId> foreign_;
  std::atomic<uint16_t> minor_ = 0;
  std::set<ContainerId> paused_;
};

class Links {
 public:
  Links();
  ~Links();                             // joins the threads; monitors stay
  Result<void> Start();

  void OnExit(Launcher::ExitCallback callback);
  void OnLost(Launcher::LostCallback callback);

  std::shared_ptr<PodLink> Find(const PodId& id);
  // kAlreadyExists when there is one.
  Result<std::shared_ptr<PodLink>> Add(const PodId& id, const std::string& run_dir, const std::string& state_dir);
  void Remove(const PodId& id);

 private:
  friend class PodLink;
  Result<uint64_t> Watch(const std::shared_ptr<PodLink>& link, int socket, int pidfd);
  void Unwatch(int fd);
  void Wire();
  void News();
  void Tell(std::function<void()> news);

  unique_fd epoll_, stop_;
  std::mutex mutex_;
  std::map<PodId, std::shared_ptr<PodLink>> links_;
  std::map<uint64_t, std::weak_ptr<PodLink>> tokens_;
  uint64_t next_token_ = 1;

  std::mutex news_mutex_;
  std::condition_variable news_changed_;
  std::deque<std::function<void()>> news_;
  bool ending_ = false;
  Launcher::ExitCallback on_exit_;
  Launcher::LostCallback on_lost_;
  std::thread wire_, news_thread_;
};

}  // namespace berth::runtime
