#include "cri/agent_service.h"

#include <poll.h>
#include <sys/socket.h>

#include "cri/check.h"
#include "cri/convert.h"
#include "cri/services.h"
#include "cri/stream.h"
#include "pods/operations.h"

namespace berth::cri {
namespace {

constexpr size_t kChunk = 256 << 10;

Result<void> Info(Door& door, const wire::InfoRequest&, wire::InfoResponse& response, Call&) {
  response.set_version(door.identity.version);
  response.set_snapshotter(std::string(door.images.snapshotter().name()));
  response.set_cgroup(door.identity.cgroup);
  response.set_root(door.core.root);
  response.set_run(door.core.run);
  response.set_metrics_address(door.identity.metrics_address);
  for (const auto& [key, value] : door.identity.facts) (*response.mutable_facts())[key] = value;
  return {};
}

Result<void> Wait(Door& door, const wire::WaitRequest& request, wire::WaitResponse& response, Call& call) {
  call.object = request.container_id().substr(0, 64);
  TRY(CheckName("container_id", request.container_id()));
  pods::ContainerState container = TRY(pods::WaitContainer(door.core, request.container_id(), call.until));
  response.set_exit_code(container.exit_code);
  response.set_reason(container.reason);
  return {};
}

Result<void> ListOperations(Door& door, const wire::OperationsRequest&, wire::OperationsResponse& response, Call&) {
  auto now = std::chrono::steady_clock::now();
  for (const auto& info : door.core.operations.List()) {
    auto& out = *response.add_operations();
    out.set_id(std::to_string(info.id));
    out.set_name(info.verb);
    out.set_object(info.subject);
    std::string stage = info.words.empty() ? info.stage : info.words;
    if (!info.blocker.empty()) stage += (stage.empty() ? "" : ": ") + info.blocker;
    out.set_stage(stage);
    out.set_age_ns((now - info.since).count());
  }
  return {};
}

Result<void> Pull(Door& door, const wire::PullRequest& request, AnswerStream<wire::PullEvent>& out, Call& call) {
  call.object = request.image().substr(0, 128);
  if (request.image().empty()) return Bad("image", "must not be empty; a tag or digest reference");
  TRY(CheckWord("image", request.image(), 1024));
  if (request.username().empty() && !request.password().empty())
    return Bad("username", "must not be empty when password is set");
  images::PullRequest pull;
  pull.reference = request.image();
  pull.platform = request.platform();
  pull.credentials.username = request.username();
  pull.credentials.password = Secret(request.password());
  pods::Operation operation(door.core.operations, "pull_image", pull.reference);
  pull.progress = [&](const images::PullProgress& p) {
    operation.Blocker(fmt::format("{} {}", p.status, p.layer));
    wire::PullEvent event;
    event.set_layer(p.layer);
    event.set_status(p.status);
    event.set_current(p.current);
    event.set_total(p.total);
    out.Offer(p.layer, std::move(event));
  };
  images::ImagePtr image = TRY(door.images.Pull(pull, call.until));
  wire::PullEvent last;
  last.set_status("Pull complete");
  last.set_image_id(image->id.str());
  out.Write(std::move(last));
  return {};
}

// Runs `work` on a second worker beside this one; Join waits for it. Outlives its work: always Join after a Start that
// worked.
class Beside {
 public:
  static Result<void> Start(WorkerPool& pool, Beside& self, std::function<Result<void>()> work) {
    TRY(pool.Submit([&self, work = std::move(work)]() mutable {
      Result<void> outcome;
      try {
        outcome = work();
      } catch (const std::exception& e) {
        outcome = Err(Code::kInternal, "{}", e.what());
      }
      work = nullptr;  // its descriptors are closed before the result is seen
      std::lock_guard lock(self.mutex_);
      self.outcome_ = std::move(outcome);
      self.done_ = true;
      self.changed_.notify_all();
    }));
    self.started_ = true;
    return {};
  }
  Result<void> Join() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ || !started_; });
    return outcome_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Result<void> outcome_;
  bool started_ = false, done_ = false;
};

using ImportStream = RequestStream<wire::ImportChunk, wire::ImportResponse>;

Result<void> Send(int fd, std::string_view bytes, const Deadline& until) {
  while (!bytes.empty()) {
    ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      TRY(until.WaitFor(fd, POLLOUT, "the import to take more bytes"));
    } else if (errno != EINTR) {
      return SysErr("hand the archive to the import");
    }
  }
  return {};
}

Result<void> Import(Door& door, ImportStream& in, wire::ImportResponse& response, Call& call) {
  wire::ImportChunk chunk;
  const bool any = in.Read(chunk);
  TRY(call.until.Check("the archive"));
  if (!any) return Bad("data", "the stream ended before the first byte; an archive is wanted");
  TRY(CheckShape(chunk));
  const std::string name = chunk.name_if_untagged();
  if (!name.empty()) TRY(CheckWord("name_if_untagged", name, 1024));
  call.object = name.substr(0, 128);
  pods::Operation operation(door.core.operations, "import_images", name);

  // A socket pair and not a pipe: send(2) reports a reader that is gone as an error, write(2) would raise SIGPIPE.
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return SysErr("socket pair for the archive");
  auto theirs = std::make_shared<unique_fd>(ends[0]);
  unique_fd ours(ends[1]);
  std::vector<images::ImagePtr> imported;
  Beside import;
  TRY(Beside::Start(door.pool, import, [&, fd = std::move(theirs)]() -> Result<void> {
    imported = TRY(door.images.Import(fd->get(), name, call.until));
    return {};
  }));
  Result<void> sent;
  uint64_t total = 0;
  do {
    if (sent = Send(ours.get(), chunk.data(), call.until); !sent) break;
    total += chunk.data().size();
    operation.Blocker(fmt::format("{} bytes received", total));
  } while (in.Read(chunk));
  // A reader that is gone has its own answer: an error, or success before the padding at the archive's end. Else the
  // import must not take what came so far for all.
  const bool reader_gone = !sent && (sent.error().sys == EPIPE || sent.error().sys == ECONNRESET);
  if (!sent && !reader_gone) in.token()->Cancel();
  ours.reset();
  TRY(import.Join());
  if (!reader_gone) TRY(sent);
  for (const auto& image : imported) {
    auto& out = *response.add_images();
    out.set_id(image->id.str());
    for (const auto& tag : image->repo_tags) out.add_tags(tag);
  }
  return {};
}

Result<void> Export(Door& door, const wire::ExportRequest& request, AnswerStream<wire::ExportChunk>& out, Call& call) {
  if (request.images_size() == 0) return Bad("images", "must name at least one image");
  std::vector<std::string> names;
  for (int i = 0; i < request.images_size(); ++i) {
    TRY(CheckWord(fmt::format("images[{}]", i), request.images(i), 1024));
    TRY_CTX(door.images.Find(request.images(i)), "images[{}]", i);
    names.push_back(request.images(i));
  }
  call.object = names[0].substr(0, 128);
  pods::Operation operation(door.core.operations, "export_images", fmt::format("{}", fmt::join(names, " ")));
  auto [read_end, write_end] = TRY(Pipe());
  auto theirs = std::make_shared<unique_fd>(std::move(write_end));
  auto form = request.oci_layout() ? images::Store::Archive::kOci : images::Store::Archive::kDocker;
  Beside work;
  TRY(Beside::Start(door.pool, work, [&, fd = std::move(theirs)]() -> Result<void> {
    return door.images.Export(names, form, fd->get(), call.until);
  }));
  // Reads to the end also when the client is gone: the writer must not meet a closed pipe.
  bool gone = false;
  Result<void> read;
  while (true) {
    std::string buffer(kChunk, '\0');
    ssize_t n = ::read(read_end.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) read = SysErr("read the archive");
    if (n <= 0) break;
    if (gone) continue;
    buffer.resize(static_cast<size_t>(n));
    wire::ExportChunk chunk;
    chunk.set_data(std::move(buffer));
    if (!out.Write(std::move(chunk))) {
      gone = true;
      out.token()->Cancel();
    }
  }
  TRY(work.Join());
  return read;
}

class AgentService final : public wire::Agent::CallbackService {
 public:
  explicit AgentService(Door& door) : door_(door) {}
  using Context = grpc::CallbackServerContext;

  grpc::ServerUnaryReactor* Info(Context* context, const wire::InfoRequest* request,
                                 wire::InfoResponse* response) override {
    return Unary(door_, {"agent_info"}, context, request, response, &cri::Info);
  }
  grpc::ServerUnaryReactor* Wait(Context* context, const wire::WaitRequest* request,
                                 wire::WaitResponse* response) override {
    return Unary(door_, {"agent_wait", Rpc::kRead, /*endless=*/true}, context, request, response, &cri::Wait);
  }
  grpc::ServerUnaryReactor* Operations(Context* context, const wire::OperationsRequest* request,
                                       wire::OperationsResponse* response) override {
    return Unary(door_, {"agent_operations"}, context, request, response, &cri::ListOperations);
  }
  grpc::ServerWriteReactor<wire::PullEvent>* Pull(Context* context, const wire::PullRequest* request) override {
    auto* stream = new AnswerStream<wire::PullEvent>(door_, {"agent_pull", Rpc::kChange}, context);
    stream->Start(request, &cri::Pull);
    return stream;
  }
  grpc::ServerWriteReactor<wire::ExportChunk>* Export(Context* context, const wire::ExportRequest* request) override {
    auto* stream = new AnswerStream<wire::ExportChunk>(door_, {"agent_export"}, context);
    stream->Start(request, &cri::Export);
    return stream;
  }
  grpc::ServerReadReactor<wire::ImportChunk>* Import(Context* context, wire::ImportResponse* response) override {
    auto* stream = new ImportStream(door_, {"agent_import", Rpc::kChange}, context);
    stream->Start(response, &cri::Import);
    return stream;
  }
  grpc::ServerBidiReactor<wire::ExecInput, wire::ExecOutput>* Exec(Context* context) override {
    return ServeExec(door_, context);
  }

 private:
  Door& door_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAgentService(Door& door) { return std::make_unique<AgentService>(door); }

}  // namespace berth::cri
