// Measures what a layer costs: import until it survives a power cut, first mount, removal.
//
//   berth_bench_layers generate FILE [files] [bytes]      writes a layer like those of large images; prints its diffID
//   berth_bench_layers run KIND ROOT RUN FILE DIFFID [MOUNTPOINT COMMAND ...]
//
// `run` imports FILE through a LayerWriter into the data root ROOT with snapshotter KIND (erofs, directory), mounts it
// read-only at MOUNTPOINT and runs COMMAND there, removes the layer, and prints `name value` lines. Wants a mount
// namespace of its own.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <random>

#include "base/atomic_file.h"
#include "images/layers/testing.h"
#include "images/snapshots/layer_snapshotter.h"
#include "images/snapshots/mount.h"
#include "images/snapshots/probe.h"

namespace berth::images {
namespace {

using Clock = std::chrono::steady_clock;
double Since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Sizes as in distribution packages: many small files, few large ones (log-normal); every other kind of entry now and
// then.
Result<void> Generate(const std::string& path, int files, uint64_t bytes) {
  unique_fd out = TRY(Open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  Hasher hasher;
  std::string buffer;
  auto flush = [&](size_t limit) -> Result<void> {
    if (buffer.size() < limit) return {};
    hasher.Update(buffer.data(), buffer.size());
    TRY(WriteAll(out.get(), buffer));
    buffer.clear();
    return {};
  };
  auto add = [&](TarItem item) -> Result<void> {
    if (item.path.size() > 100) item.pax.emplace_back("path", item.path);
    if (item.target.size() > 100) item.pax.emplace_back("linkpath", item.target);
    TarMaker one;
    one.Add(item);
    buffer += one.Unfinished();
    return flush(4 << 20);
  };
  std::mt19937_64 random(2024);
  std::lognormal_distribution<double> sizes(8.0, 1.9);
  std::vector<double> weights(static_cast<size_t>(files));
  double sum = 0;
  for (double& w : weights) sum += w = std::min(sizes(random), 2e7);
  std::string noise(1 << 20, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  std::vector<std::string> directories{"usr"};
  TRY(add({.type = '5', .path = "./", .mode = 0755, .mtime = 1'700'000'000}));
  TRY(add({.type = '5', .path = "usr", .mode = 0755, .mtime = 1'700'000'000}));
  std::string last;
  for (int i = 0; i < files; ++i) {
    if (i % 10 == 0) {
      std::string parent =
          directories[random() % std::min<size_t>(directories.size(), 1 + static_cast<size_t>(i) / 20)];
      if (parent.size() > 150) parent = "usr";
      directories.push_back(
          fmt::format("{}/{}{}", parent,
                      std::string("lib\0share\0src\0pkg", 17).substr(random() % 3, 3 + random() % 5).c_str(), i));
      TRY(add({.type = '5', .path = directories.back(), .mode = 0755, .mtime = 1'600'000'000 + i}));
    }
    TarItem item{.path = fmt::format("{}/file-{}", directories.back(), i),
                 .mode = i % 7 == 0 ? 0755 : 0644,
                 .mtime = 1'600'000'000 + i};
    item.uid = static_cast<uint32_t>(i % 50 == 0 ? random() % 100'000 : 0);
    item.gid = item.uid;
    uint64_t size = static_cast<uint64_t>(weights[static_cast<size_t>(i)] / sum * static_cast<double>(bytes));
    item.data.resize(size);
    for (uint64_t at = 0; at < size;) {
      uint64_t from = random() % (noise.size() / 2), n = std::min<uint64_t>(noise.size() / 2, size - at);
      memcpy(item.data.data() + at, noise.data() + from, n);
      at += n;
    }
    if (i % 5 == 0)
      item.pax.emplace_back("mtime", fmt::format("{}.{:09}", 1'600'000'000 + i, random() % 1'000'000'000));
    if (i % 100 == 0) item.pax.emplace_back("SCHILY.xattr.user.package", fmt::format("package-{}", i / 100));
    if (i % 1000 == 500) item.path = fmt::format("{}/{}-{}", directories.back(), std::string(200, 'n'), i);
    last = item.path;
    TRY(add(std::move(item)));
    if (i % 25 == 1)
      TRY(add({.type = '2',
               .path = fmt::format("{}/link-{}", directories.back(), i),
               .target = last,
               .mode = 0777,
               .mtime = 1'500'000'000}));
    if (i % 200 == 2) TRY(add({.type = '1', .path = fmt::format("{}/hard-{}", directories.back(), i), .target = last}));
    if (i % 10000 == 3)
      TRY(add({.type = '3',
               .path = fmt::format("{}/device-{}", directories.back(), i),
               .mode = 0600,
               .major = 1,
               .minor = 3}));
    if (i % 10000 == 4) TRY(add({.type = '6', .path = fmt::format("{}/pipe-{}", directories.back(), i), .mode = 0600}));
  }
  buffer.append(1024, '\0');
  TRY(flush(0));
  fmt::print("{}\n", hasher.Finish());
  return {};
}

Result<void> Measure(const std::vector<std::string>& arguments) {
  Options options;
  options.snapshotter = arguments[0];
  options.root = arguments[1];
  options.run = arguments[2];
  const std::string& tar = arguments[3];
  Digest diff_id = TRY(Digest::Parse(arguments[4]));
  TRY(MakeDirs(options.root, 0755));
  auto db = TRY(Db::OpenFile(options.root + "/berth.db"));
  auto snapshotter = TRY(OpenSnapshotter(options, *db));
  TRY(snapshotter->Collect({}));

  unique_fd in = TRY(Open(tar, O_RDONLY));
  auto begin = Clock::now();
  auto writer = TRY(snapshotter->Begin({}));
  std::string buffer(256 << 10, '\0');
  for (;;) {
    ssize_t n = read(in.get(), buffer.data(), buffer.size());
    if (n < 0) return SysErr("read {}", tar);
    if (n == 0) break;
    TRY(writer->Write(std::string_view(buffer).substr(0, static_cast<size_t>(n))));
  }
  fmt::print("stream_s {:.3f}\n", Since(begin));
  uint64_t size = TRY(writer->Commit(diff_id, Deadline::Never()));
  fmt::print("durable_s {:.3f}\ntar_bytes {}\n", Since(begin), size);
  writer.reset();
  fmt::print("disk_bytes {}\n", TRY(snapshotter->LayersUsage()).bytes);

  begin = Clock::now();
  RootFs root = TRY(snapshotter->Prepare("bench", {diff_id}, true, Deadline::Never()));
  fmt::print("first_mount_ms {:.3f}\n", Since(begin) * 1000);
  begin = Clock::now();
  RootFs second = TRY(snapshotter->Prepare("bench-writable", {diff_id}, false, Deadline::Never()));
  fmt::print("next_prepare_ms {:.3f}\n", Since(begin) * 1000);
  begin = Clock::now();
  second.mount.reset();
  TRY(snapshotter->Drop("bench-writable"));
  fmt::print("drop_ms {:.3f}\n", Since(begin) * 1000);
  if (arguments.size() > 6) {
    TRY(AttachMount(root.mount, arguments[5]));
    fflush(stdout);
    std::vector<char*> argv;
    for (size_t i = 6; i < arguments.size(); ++i) argv.push_back(const_cast<char*>(arguments[i].c_str()));
    argv.push_back(nullptr);
    pid_t child = fork();
    if (child == 0) {
      execvp(argv[0], argv.data());
      _exit(127);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) return SysErr("wait for {}", arguments[6]);
    TRY(DetachMount(arguments[5]));
    if (status != 0) return Err(Code::kDataLoss, "{} failed", arguments[6]);
  }
  root.mount.reset();
  TRY(snapshotter->Drop("bench"));
  begin = Clock::now();
  TRY(snapshotter->RemoveLayer(diff_id));
  fmt::print("remove_s {:.3f}\n", Since(begin));
  return {};
}

int Main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  Result<void> done =
      Err(Code::kInvalidArgument,
          "usage: {} generate FILE [files] [bytes] | run KIND ROOT RUN FILE DIFFID [MOUNTPOINT COMMAND ...]", argv[0]);
  if (arguments.size() >= 2 && arguments[0] == "generate")
    done = Generate(arguments[1], arguments.size() > 2 ? std::stoi(arguments[2]) : 80'000,
                    arguments.size() > 3 ? std::stoull(arguments[3]) : 1'000'000'000);
  else if (arguments.size() >= 6 && arguments[0] == "run")
    done = Measure({arguments.begin() + 1, arguments.end()});
  if (done) return 0;
  fmt::print(stderr, "{}\n", done.error().what);
  return 1;
}

}  // namespace
}  // namespace berth::images

int main(int argc, char** argv) { return berth::images::Main(argc, argv); }
