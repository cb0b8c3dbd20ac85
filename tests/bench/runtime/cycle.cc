// Times commands as whole processes, in random alternation with a pause between starts.
//
//   berth_bench_cycle [--rounds 40] [--pause-ms 60] name=command ...       one at a time; p10, median, CPU, ratios to
//   the first berth_bench_cycle --at-once 200 [--width 200] name=command ...         that many, `width` of them at a
//   time; p50, p99
//
// A command is split at blanks; `{n}` becomes a number that is never repeated (container ids). Each must exit with 0,
// else the run fails with what it wrote. Started by posix_spawn, standard input and output on /dev/null.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

extern char** environ;

namespace {

struct Subject {
  std::string name, command;
  std::vector<double> wall, cpu;  // milliseconds
};

double Now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

double Milliseconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3;
}

pid_t Start(const std::string& command, int number) {
  std::vector<std::string> words;
  for (size_t at = 0; at < command.size();) {
    size_t end = std::min(command.find(' ', at), command.size());
    std::string word = command.substr(at, end - at);
    if (size_t n = word.find("{n}"); n != std::string::npos) word.replace(n, 3, std::to_string(number));
    if (!word.empty()) words.push_back(word);
    at = end + 1;
  }
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  static posix_spawn_file_actions_t actions = [] {
    posix_spawn_file_actions_t a;
    posix_spawn_file_actions_init(&a);
    posix_spawn_file_actions_addopen(&a, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&a, 1, "/dev/null", O_WRONLY, 0);
    return a;
  }();
  pid_t pid = -1;
  if (int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ); error != 0) {
    std::fprintf(stderr, "%s: %s\n", argv[0], std::strerror(error));
    std::exit(1);
  }
  return pid;
}

void Check(const Subject& s, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  std::fprintf(stderr, "%s: %s: status %x\n", s.name.c_str(), s.command.c_str(), static_cast<unsigned>(status));
  std::exit(1);
}

double At(std::vector<double> values, double quantile) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(quantile * static_cast<double>(values.size())))];
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 40, at_once = 0, width = 0;
  double pause_ms = 60;
  std::vector<Subject> subjects;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--rounds" && i + 1 < argc)
      rounds = std::atoi(argv[++i]);
    else if (word == "--pause-ms" && i + 1 < argc)
      pause_ms = std::atof(argv[++i]);
    else if (word == "--at-once" && i + 1 < argc)
      at_once = std::atoi(argv[++i]);
    else if (word == "--width" && i + 1 < argc)
      width = std::atoi(argv[++i]);
    else if (size_t equal = word.find('='); equal != std::string::npos && word[0] != '-')
      subjects.push_back({word.substr(0, equal), word.substr(equal + 1), {}, {}});
    else {
      std::fprintf(stderr, "berth_bench_cycle: what is %s?\n", word.c_str());
      return 2;
    }
  }
  if (subjects.empty() || rounds < 1) return 2;
  std::mt19937 random(static_cast<unsigned>(getpid()));
  int number = 0;
  if (at_once > 0) {
    for (Subject& s : subjects) {
      std::vector<std::pair<pid_t, double>> running;
      int started = 0;
      const double begin = Now();
      while (started < at_once || !running.empty()) {
        while (started < at_once && static_cast<int>(running.size()) < (width > 0 ? width : at_once)) {
          const double at = Now();
          running.emplace_back(Start(s.command, ++number), at);
          ++started;
        }
        int status = 0;
        const pid_t pid = wait(&status);
        auto it = std::find_if(running.begin(), running.end(), [&](const auto& r) { return r.first == pid; });
        if (it == running.end()) continue;
        Check(s, status);
        s.wall.push_back(Now() - it->second);
        running.erase(it);
      }
      const double took = Now() - begin;
      std::printf("%-14s p50 %8.1f ms   p99 %8.1f ms   p99/p50 %4.2f   %6.0f a second   n=%zu\n", s.name.c_str(),
                  At(s.wall, 0.5), At(s.wall, 0.99), At(s.wall, 0.99) / At(s.wall, 0.5), at_once / took * 1e3,
                  s.wall.size());
    }
    return 0;
  }
  std::vector<size_t> order;
  for (size_t i = 0; i < subjects.size(); ++i) order.push_back(i);
  for (int round = 0; round <= rounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (size_t i : order) {
      Subject& s = subjects[i];
      std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(pause_ms));
      const double at = Now();
      const pid_t pid = Start(s.command, ++number);
      int status = 0;
      rusage used{};
      while (wait4(pid, &status, 0, &used) < 0 && errno == EINTR) {
      }
      const double took = Now() - at;
      Check(s, status);
      if (round == 0) continue;  // the first round warms caches
      s.wall.push_back(took);
      s.cpu.push_back(Milliseconds(used.ru_utime) + Milliseconds(used.ru_stime));
    }
  }
  const double first = At(subjects[0].wall, 0.5);
  for (const Subject& s : subjects)
    std::printf("%-14s median %8.2f ms   p10 %8.2f ms   cpu %6.2f ms   %6.1fx   n=%zu\n", s.name.c_str(),
                At(s.wall, 0.5), At(s.wall, 0.1), At(s.cpu, 0.5), At(s.wall, 0.5) / first, s.wall.size());
}
