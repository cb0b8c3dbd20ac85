#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

#include "base/atomic_file.h"
#include "base/unique_fd.h"
#include "cmd/berth/commands.h"
#include "cmd/berth/table.h"

namespace berth::cli {
namespace {

namespace agent = ::berth::v1;

struct ImageOptions {
  std::vector<std::string> names;
  std::string platform, username, output, form = "docker-archive", name;
  bool quiet = false, password_stdin = false;
};

// The progress of a pull: one line a layer, redrawn in place on a terminal, one line a change elsewhere.
class PullDisplay {
 public:
  explicit PullDisplay(bool quiet) : quiet_(quiet), terminal_(::isatty(STDERR_FILENO)) {}

  void Show(const agent::PullEvent& event) {
    if (quiet_) return;
    if (event.layer().empty()) {
      if (!event.status().empty()) Line(event.status());
      return;
    }
    auto it = std::find_if(layers_.begin(), layers_.end(), [&](auto& l) { return l.id == event.layer(); });
    if (it == layers_.end()) it = layers_.insert(layers_.end(), {event.layer(), "", 0, 0, ""});
    bool changed = it->status != event.status();
    it->status = event.status();
    it->current = event.current();
    it->total = event.total();
    if (terminal_) {
      Redraw();
    } else if (changed) {
      fmt::print(stderr, "{}: {}\n", it->id, it->status);
    }
  }

 private:
  struct Layer {
    std::string id, status;
    uint64_t current, total;
    std::string drawn;
  };

  void Line(const std::string& text) {
    if (terminal_ && drawn_ > 0) fmt::print(stderr, "\n");
    fmt::print(stderr, "{}\n", text);
    drawn_ = 0;
  }

  static std::string Bar(const Layer& l) {
    constexpr size_t kWidth = 30;
    size_t full = l.total == 0 ? 0 : std::min<uint64_t>(kWidth, l.current * kWidth / l.total);
    return fmt::format("[{}{}] {}/{}", std::string(full, '='), std::string(kWidth - full, ' '), HumanSize(l.current),
                       HumanSize(l.total));
  }

  void Redraw() {
    std::string text;
    if (drawn_ > 0) text += fmt::format("\x1b[{}A", drawn_);
    for (const auto& l : layers_) {
      std::string line = fmt::format("{}: {}", l.id, l.status);
      if (l.total > 0 && l.current < l.total) line += " " + Bar(l);
      text += "\r\x1b[2K" + line + "\n";
    }
    drawn_ = layers_.size();
    fmt::print(stderr, "{}", text);
  }

  bool quiet_, terminal_;
  size_t drawn_ = 0;
  std::vector<Layer> layers_;
};

Result<std::string> Pull(const Client& client, const agent::PullRequest& request, bool quiet) {
  grpc::ClientContext call;
  auto stream = client.agent->Pull(&call, request);
  PullDisplay display(quiet);
  agent::PullEvent event;
  std::string id;
  while (stream->Read(&event)) {
    display.Show(event);
    if (!event.image_id().empty()) id = event.image_id();
  }
  TRY(ToResult(stream->Finish(), client));
  return id;
}

Result<int> PullAll(const Context& context, const ImageOptions& o) {
  Client client = context.Open();
  std::string password;
  if (o.password_stdin) {
    char buffer[4096];
    while (ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer)) {
      if (n < 0) return SysErr("read the password from standard input");
      password.append(buffer, n);
    }
    while (password.ends_with('\n') || password.ends_with('\r')) password.pop_back();
  }
  if (o.username.empty() != password.empty())
    return Err(Code::kInvalidArgument, "--username and --password-stdin belong together");
  for (const auto& name : o.names) {
    agent::PullRequest request;
    request.set_image(name);
    request.set_platform(o.platform);
    request.set_username(o.username);
    request.set_password(password);
    fmt::print("{}\n", TRY(Pull(client, request, o.quiet)));
  }
  return 0;
}

Result<int> Import(const Context& context, const ImageOptions& o) {
  Client client = context.Open();
  for (const auto& path : o.names) {
    unique_fd file(path == "-" ? ::dup(STDIN_FILENO) : -1);
    if (path != "-") file = TRY(Open(path, O_RDONLY));
    grpc::ClientContext call;
    agent::ImportResponse response;
    auto stream = client.agent->Import(&call, &response);
    agent::ImportChunk chunk;
    chunk.set_name_if_untagged(o.name);
    std::string buffer(1 << 20, '\0');
    bool sending = stream->Write(chunk);
    chunk.clear_name_if_untagged();
    while (sending) {
      ssize_t n = ::read(file.get(), buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SysErr("read {}", path);
      if (n == 0) break;
      chunk.set_data(buffer.data(), n);
      sending = stream->Write(chunk);
    }
    stream->WritesDone();
    TRY_CTX(ToResult(stream->Finish(), client), "import {}", path);
    for (const auto& image : response.images()) {
      std::string names;
      for (const auto& tag : image.tags()) names += (names.empty() ? "" : " ") + tag;
      fmt::print("{}  {}\n", image.id(), names.empty() ? "<none>" : names);
    }
  }
  return 0;
}

Result<int> Save(const Context& context, const ImageOptions& o) {
  if (o.output.empty() && ::isatty(STDOUT_FILENO))
    return Err(Code::kInvalidArgument, "refusing to write an archive to a terminal; use --output FILE or redirect");
  Client client = context.Open();
  // Beside the target first: an archive is there whole or not at all.
  std::string part = o.output + ".part";
  unique_fd file(o.output.empty() ? ::dup(STDOUT_FILENO) : -1);
  if (!o.output.empty()) file = TRY(Open(part, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  auto write = [&]() -> Result<void> {
    agent::ExportRequest request;
    for (const auto& name : o.names) request.add_images(name);
    request.set_oci_layout(o.form == "oci");
    grpc::ClientContext call;
    auto stream = client.agent->Export(&call, request);
    agent::ExportChunk chunk;
    Result<void> written;
    while (stream->Read(&chunk)) {
      if (written) written = WriteAll(file.get(), chunk.data());
      if (!written) call.TryCancel();
    }
    grpc::Status status = stream->Finish();
    TRY(std::move(written));
    return ToResult(status, client);
  };
  auto done = write();
  if (o.output.empty()) {
    TRY(std::move(done));
    return 0;
  }
  if (!done || ::fsync(file.get()) < 0 || ::rename(part.c_str(), o.output.c_str()) < 0) {
    int err = errno;
    ::unlink(part.c_str());
    TRY(std::move(done));
    errno = err;
    return SysErr("write {}", o.output);
  }
  return 0;
}

Result<int> RemoveImages(const Context& context, const ImageOptions& o) {
  Client client = context.Open();
  int code = 0;
  for (const auto& name : o.names) {
    cri::ImageStatusRequest status;
    status.mutable_image()->set_image(name);
    auto found = TRY(Call(client, *client.images, &cri::ImageService::Stub::ImageStatus, status));
    if (!found.has_image()) {
      fmt::print(stderr, "berth: no image '{}'; `berth images` lists what there is\n", name);
      code = 1;
      continue;
    }
    cri::RemoveImageRequest request;
    request.mutable_image()->set_image(name);
    if (auto done = Call(client, *client.images, &cri::ImageService::Stub::RemoveImage, request); !done) {
      fmt::print(stderr, "berth: {}: {}\n", name, done.error().what);
      code = 1;
    } else {
      fmt::print("{}\n", name);
    }
  }
  return code;
}

}  // namespace

Result<std::string> PullWithProgress(const Client& client, const std::string& image, const std::string& platform,
                                     bool quiet) {
  agent::PullRequest request;
  request.set_image(image);
  request.set_platform(platform);
  return Pull(client, request, quiet);
}

void AddImages(CLI::App& app, Context& context) {
  auto o = std::make_shared<ImageOptions>();
  auto* pull = app.add_subcommand("pull", "Fetches images from a registry, with a progress display");
  pull->add_option("image", o->names, "References, e.g. docker.io/library/nginx:1.27 or host:5000/name@sha256:...")
      ->required();
  pull->add_option("--platform", o->platform, "os/architecture[/variant]; default: this machine's");
  pull->add_option("-u,--username", o->username, "User name at the registry");
  pull->add_flag("--password-stdin", o->password_stdin, "Reads the password from standard input");
  pull->add_flag("-q,--quiet", o->quiet, "No progress");
  auto* load = app.add_subcommand("import", "Loads images from archives (docker save, OCI layout; plain or gzip)");
  load->add_option("archive", o->names, "Files; - for standard input")->required();
  load->add_option("--name", o->name, "Name for an image that the archive does not name");
  auto* save = app.add_subcommand("save", "Writes images to an archive");
  save->add_option("image", o->names, "Names or ids")->required();
  save->add_option("-o,--output", o->output, "File; default: standard output");
  save->add_option("--format", o->form, "docker-archive or oci")
      ->check(CLI::IsMember({"docker-archive", "oci"}))
      ->capture_default_str();
  auto* rmi = app.add_subcommand("rmi", "Removes images or names of images");
  rmi->add_option("image", o->names, "Names or ids")->required();
  pull->callback([=, &context] { context.action = [=, &context] { return PullAll(context, *o); }; });
  load->callback([=, &context] { context.action = [=, &context] { return Import(context, *o); }; });
  save->callback([=, &context] { context.action = [=, &context] { return Save(context, *o); }; });
  rmi->callback([=, &context] { context.action = [=, &context] { return RemoveImages(context, *o); }; });
}

}  // namespace berth::cli
