#include "pods/users.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>

namespace berth::pods {

namespace {

constexpr size_t kFileLimit = 1 << 20;
constexpr int64_t kMaxId = 0xfffffffe;  // 2^32-1 means "no change" to the kernel

Result<std::string> ReadInRoot(int root, const char* path) {
  open_how how = {};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  unique_fd fd;
  do fd.reset(static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how)));
  while (!fd && (errno == EINTR || errno == EAGAIN));
  if (!fd) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return std::string();
    return SysErr("open {} in the image", path);
  }
  struct stat st;
  if (::fstat(fd.get(), &st) < 0) return SysErr("stat {} in the image", path);
  if (!S_ISREG(st.st_mode)) return Err(Code::kInvalidArgument, "image: {}: not a regular file", path);
  std::string text;
  char chunk[16384];
  while (true) {
    ssize_t n = ::read(fd.get(), chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SysErr("read {} in the image", path);
    if (n == 0) return text;
    text.append(chunk, static_cast<size_t>(n));
    if (text.size() > kFileLimit)
      return Err(Code::kInvalidArgument, "image: {}: larger than {} bytes", path, kFileLimit);
  }
}

std::optional<int64_t> Number(std::string_view text) {
  int64_t value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || ec != std::errc() || end != text.data() + text.size() || value < 0 || value > kMaxId)
    return std::nullopt;
  return value;
}

std::vector<std::string_view> Split(std::string_view text, char at) {
  std::vector<std::string_view> out;
  while (true) {
    size_t end = text.find(at);
    out.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return out;
    text.remove_prefix(end + 1);
  }
}

template <class F>
void EachLine(std::string_view text, size_t fields, F&& f) {  // f returns false to stop
  for (std::string_view line : Split(text, '\n')) {
    if (line.empty() || line[0] == '#') continue;
    auto parts = Split(line, ':');
    if (parts.size() >= fields && !f(parts)) return;
  }
}

bool AllDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

Result<uint32_t> Checked(int64_t id, std::string_view field) {
  if (id < 0 || id > kMaxId) return Err(Code::kInvalidArgument, "{}: {}: must be between 0 and {}", field, id, kMaxId);
  return static_cast<uint32_t>(id);
}

}  // namespace

Result<UserAnswer> ResolveUser(int root, const UserRequest& request) {
  std::string user = request.user, group;
  if (size_t colon = user.find(':'); colon != std::string::npos) {
    group = user.substr(colon + 1);
    user.resize(colon);
    if (group.empty()) return Err(Code::kInvalidArgument, "user: {}: a group must follow the colon", request.user);
  }
  UserAnswer answer;
  answer.home = "/";
  ResolvedUser& out = answer.user;
  std::string name;  // of the passwd entry

  std::string passwd = TRY(ReadInRoot(root, "etc/passwd"));
  std::optional<uint32_t> uid;
  if (request.uid)
    uid = TRY(Checked(*request.uid, "run_as_user"));
  else if (user.empty())
    uid = 0;
  bool found = false;
  auto take = [&](const std::vector<std::string_view>& f, int64_t id) {
    name = f[0];
    uid = static_cast<uint32_t>(id);
    if (auto gid = Number(f[3])) out.gid = static_cast<uint32_t>(*gid);
    if (!f[5].empty()) answer.home = f[5];
    found = true;
  };
  if (!uid)  // a name goes before the number that it may look like
    EachLine(passwd, 6, [&](const auto& f) {
      if (auto id = Number(f[2]); id && f[0] == user) take(f, *id);
      return !found;
    });
  if (!uid && AllDigits(user)) {
    auto number = Number(user);
    if (!number) return Err(Code::kInvalidArgument, "user: {}: must be at most {}", user, kMaxId);
    uid = static_cast<uint32_t>(*number);
  }
  if (!uid) return Err(Code::kInvalidArgument, "user: {}: no such user in the image's /etc/passwd", user);
  if (!found)
    EachLine(passwd, 6, [&](const auto& f) {
      if (auto id = Number(f[2]); id && *id == *uid) take(f, *id);
      return !found;
    });
  out.uid = *uid;

  std::string groups;
  auto load_groups = [&]() -> Result<void> {
    if (groups.empty()) groups = TRY(ReadInRoot(root, "etc/group"));
    return {};
  };
  if (request.gid) {
    out.gid = TRY(Checked(*request.gid, "run_as_group"));
  } else if (!group.empty() && !request.uid) {
    TRY(load_groups());
    std::optional<uint32_t> gid;
    EachLine(groups, 3, [&](const auto& f) {
      if (auto id = Number(f[2]); id && f[0] == group) gid = static_cast<uint32_t>(*id);
      return !gid;
    });
    if (!gid && AllDigits(group))
      if (auto number = Number(group)) gid = static_cast<uint32_t>(*number);
    if (!gid) return Err(Code::kInvalidArgument, "user: {}: no such group in the image's /etc/group", group);
    out.gid = *gid;
  }

  auto add = [&](uint32_t gid) {
    if (std::find(out.groups.begin(), out.groups.end(), gid) == out.groups.end()) out.groups.push_back(gid);
  };
  add(out.gid);
  for (int64_t gid : request.groups) add(TRY(Checked(gid, "supplemental_groups")));
  if (!request.strict_groups && !name.empty()) {
    TRY(load_groups());
    EachLine(groups, 4, [&](const auto& f) {
      if (auto id = Number(f[2]))
        for (std::string_view member : Split(f[3], ','))
          if (member == name) add(static_cast<uint32_t>(*id));
      return true;
    });
  }
  return answer;
}

UserRequest RequestOf(const ContainerSpec& spec, const std::string& image_user) {
  UserRequest request;
  request.gid = spec.run_as_group;
  request.groups = spec.supplemental_groups;
  request.strict_groups = spec.strict_groups;
  if (spec.run_as_user)
    request.uid = spec.run_as_user;
  else if (!spec.run_as_username.empty())
    request.user = spec.run_as_username;
  else
    request.user = image_user;
  return request;
}

}  // namespace berth::pods
