#include "cri/server.h"

#include <google/protobuf/stubs/logging.h>
#include <grp.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <charconv>
#include <filesystem>
#include <thread>

#include "base/fd_stream.h"
#include "base/log.h"
#include "cri/check.h"
#include "cri/services.h"
#include "cri/stream_backend.h"

namespace berth::cri {
namespace {

constexpr int kMessageLimit = 16 << 20;
constexpr int kStreamsPerConnection = 256;

// Major.minor.patch and an optional -pre or +build: the kubelet ends when it cannot read the version.
bool IsSemanticVersion(std::string_view text) {
  for (int part = 0; part < 3; ++part) {
    size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (digits == 0 || (digits > 1 && text[0] == '0')) return false;
    text.remove_prefix(digits);
    if (part < 2) {
      if (!text.starts_with('.')) return false;
      text.remove_prefix(1);
    }
  }
  return text.empty() || ((text[0] == '-' || text[0] == '+') && text.size() > 1);
}

Result<gid_t> FindGroup(const std::string& name) {
  gid_t number = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error == std::errc() && end == name.data() + name.size()) return number;
  std::string buffer(16384, '\0');
  group entry{}, *found = nullptr;
  if (int err = ::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found); err != 0)
    return SysErrOf(err, "look up group {}", name);
  if (found == nullptr) return Err(Code::kInvalidArgument, "socket group: no group {} on this machine", Quote(name));
  return found->gr_gid;
}

void GrpcLog(gpr_log_func_args* args) {
  if (args->severity != GPR_LOG_SEVERITY_ERROR) return;
  log::Warn("grpc.message", {{"text", args->message}, {"file", args->file}, {"line", args->line}});
}

void ProtobufLog(google::protobuf::LogLevel level, const char*, int, const std::string& message) {
  if (level >= google::protobuf::LOGLEVEL_ERROR) log::Warn("protobuf.message", {{"text", message}});
}

class GrpcServer final : public Server {
 public:
  GrpcServer(const ServerOptions& options, pods::Core& core, images::Store& images, cni::Network& network,
             WorkerPool& pool, metrics::Registry& metrics)
      : options_(options),
        door_{
            core, images, network, pool, metrics, calls_, options.host ? *options.host : ProbeHost(core.runtime_options.handlers), options.identity, nullptr},
        backend_(MakeStreamBackend(core)),
        runtime_(MakeRuntimeService(door_)),
        image_(MakeImageService(door_)),
        agent_(MakeAgentService(door_)) {}
  ~GrpcServer() override { Shutdown(); }

  Result<void> Start();
  void Shutdown() override;

 private:
  void Accept();
  bool Ours() const;  // is the socket in the file system the one we made

  const ServerOptions options_;
  Calls calls_;
  Door door_;
  std::unique_ptr<streaming::Backend> backend_;
  std::unique_ptr<streaming::Server> streaming_;
  std::unique_ptr<grpc::Service> runtime_, image_, agent_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  unique_fd listener_;
  struct stat socket_ {};
  CancelToken stop_;
  std::thread accepting_;
};

Result<void> GrpcServer::Start() {
  if (!IsSemanticVersion(options_.identity.version))
    return Err(Code::kInvalidArgument, "version: {} is not a semantic version such as 0.1.0",
               Quote(options_.identity.version));
  ::signal(SIGPIPE, SIG_IGN);
  gpr_set_log_function(&GrpcLog);
  google::protobuf::SetLogHandler(&ProtobufLog);
  // The library is never shut down: its shutdown joins a thread that may poll for up to ten seconds (backup poller),
  // which would delay the end of the agent. The process's end frees the same.
  [[maybe_unused]] static const bool initialised = (::grpc_init(), true);

  streaming_ = TRY(streaming::Server::Start(options_.streaming, *backend_));
  door_.streaming = streaming_.get();

  std::filesystem::path directory = std::filesystem::path(options_.socket).parent_path();
  std::error_code error;
  if (!std::filesystem::exists(directory, error)) {
    std::filesystem::create_directories(directory.parent_path(), error);
    if (::mkdir(directory.c_str(), options_.directory_mode) < 0 && errno != EEXIST)
      return SysErr("make {}", directory.string());
    if (::chmod(directory.c_str(), options_.directory_mode) < 0) return SysErr("chmod {}", directory.string());
  }
  listener_ = TRY(ListenUnix(options_.socket, options_.mode, SOCK_STREAM | SOCK_NONBLOCK));
  if (::lstat(options_.socket.c_str(), &socket_) < 0) return SysErr("stat {}", options_.socket);
  if (!options_.group.empty()) {
    gid_t group = TRY(FindGroup(options_.group));
    for (const std::string& path : {options_.socket, directory.string()})
      if (::lchown(path.c_str(), static_cast<uid_t>(-1), group) < 0)
        return SysErr("give {} to group {}", path, options_.group);
  }

  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMessageLimit);
  builder.SetMaxSendMessageSize(kMessageLimit);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kStreamsPerConnection);
  // Clients on this machine may ping as they like.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  for (grpc::Service* service : {runtime_.get(), image_.get(), agent_.get()}) builder.RegisterService(service);
  acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  server_ = builder.BuildAndStart();
  if (!server_) return Err(Code::kInternal, "gRPC did not start");
  accepting_ = std::thread([this] { Accept(); });
  log::Info("cri.listening", {{"socket", options_.socket}});
  return {};
}

void GrpcServer::Accept() {
  ::pthread_setname_np(::pthread_self(), "cri-accept");
  pollfd fds[] = {{listener_.get(), POLLIN, 0}, {stop_.fd(), POLLIN, 0}};
  while (!stop_.cancelled()) {
    if (::poll(fds, 2, stop_.fd() < 0 ? 250 : -1) <= 0) continue;
    int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) continue;
      log::Warn("cri.accept_failed", {{"error", ErrnoText(errno)}});
      // Out of descriptors: the connection stays in the backlog; asking again at once would only spin.
      pollfd stop{stop_.fd(), POLLIN, 0};
      ::poll(&stop, stop_.fd() < 0 ? 0 : 1, 100);
      continue;
    }
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listener_.get();
    connection.fd = fd;  // gRPC's from here on
    acceptor_->HandleNewConnection(&connection);
  }
}

bool GrpcServer::Ours() const {
  struct stat st {};
  return ::lstat(options_.socket.c_str(), &st) == 0 && st.st_dev == socket_.st_dev && st.st_ino == socket_.st_ino;
}

void GrpcServer::Shutdown() {
  stop_.Cancel();
  if (accepting_.joinable()) accepting_.join();
  if (listener_ && socket_.st_ino != 0 && Ours()) ::unlink(options_.socket.c_str());
  listener_.reset();
  if (!server_) return;
  calls_.CancelEndless();
  streaming_.reset();
  server_->Shutdown(std::chrono::system_clock::now() + options_.drain);
  server_->Wait();
  server_.reset();
  log::Info("cri.stopped");
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, pods::Core& core, images::Store& images,
                                              cni::Network& network, WorkerPool& pool, metrics::Registry& metrics) {
  auto server = std::make_unique<GrpcServer>(options, core, images, network, pool, metrics);
  TRY(server->Start());
  return server;
}

}  // namespace berth::cri
