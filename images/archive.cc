#include "images/archive.h"

#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "images/layers/tar.h"

namespace berth::images {
namespace {

constexpr size_t kChunk = 256 << 10;
constexpr int kMaxLinks = 8;
constexpr size_t kMaxName = 1024;

// "./a//b" and "/a/b" are "a/b"; nothing for names that climb.
std::optional<std::string> CleanName(std::string_view name, std::string_view base = "") {
  std::vector<std::string_view> parts;
  auto push = [&](std::string_view text) {
    for (size_t start = 0; start <= text.size();) {
      size_t slash = std::min(text.find('/', start), text.size());
      std::string_view part = text.substr(start, slash - start);
      start = slash + 1;
      if (part.empty() || part == ".") continue;
      if (part == "..") {
        if (parts.empty()) return false;
        parts.pop_back();
      } else {
        parts.push_back(part);
      }
    }
    return true;
  };
  if (!push(base) || !push(name)) return std::nullopt;
  return fmt::format("{}", fmt::join(parts, "/"));
}

}  // namespace

Result<ArchiveReader> ArchiveReader::Open(int fd, const std::string& spool_dir, const Deadline& until,
                                          const ArchiveLimits& limits) {
  ArchiveReader out;
  struct stat st;
  if (::fstat(fd, &st) != 0) return SysErr("archive");
  TarLimits tar_limits{.entries = limits.entries, .metadata = limits.names, .extended = 1 << 20, .path = kMaxName};
  TarScanner scanner(
      [&](TarEntry&& entry) -> Result<void> {
        auto name = CleanName(entry.path);
        if (!name) return Err(Code::kInvalidArgument, "entry {} \"{}\" leaves the archive", entry.number, entry.path);
        Entry kept;
        switch (entry.type) {
          case EntryType::kDirectory:
            kept.directory = true;
            break;
          case EntryType::kSymlink: {
            auto target = CleanName(entry.target, entry.target.starts_with('/')
                                                      ? ""
                                                      : name->substr(0, std::max<size_t>(name->rfind('/') + 1, 1) - 1));
            if (!target)
              return Err(Code::kInvalidArgument, "entry \"{}\" is a link to \"{}\", which leaves the archive", *name,
                         entry.target);
            kept.link = *target;
            break;
          }
          case EntryType::kHardLink: {
            auto target = CleanName(entry.target);
            if (!target)
              return Err(Code::kInvalidArgument, "entry \"{}\" is a link to \"{}\", which leaves the archive", *name,
                         entry.target);
            kept.link = *target;
            break;
          }
          case EntryType::kFile:
            if (entry.size > 0) {
              if (entry.extents.size() != 1 || entry.extents[0].length != entry.size)
                return Err(Code::kInvalidArgument, "entry \"{}\" is a sparse file; images are not written like that",
                           *name);
              kept.offset = entry.extents[0].source;
              kept.size = entry.size;
            }
            break;
          default:
            return Err(Code::kInvalidArgument, "entry \"{}\" is a device or pipe; an image archive has files only",
                       *name);
        }
        if (!name->empty()) out.entries_.insert_or_assign(*name, std::move(kept));
        return {};
      },
      tar_limits);

  std::vector<char> chunk(kChunk);
  off_t start = S_ISREG(st.st_mode) ? ::lseek(fd, 0, SEEK_CUR) : -1;
  bool in_place = start >= 0;
  if (in_place) {
    std::array<char, 512> head{};
    ssize_t n = ::pread(fd, head.data(), head.size(), start);
    if (n < 0) return SysErr("read the archive");
    // Compressed data does not have the magic of a tar header.
    in_place = n == static_cast<ssize_t>(head.size()) && std::string_view(head.data() + 257, 5) == "ustar";
  }
  if (in_place) {
    out.file_ = fd;
    out.start_ = static_cast<uint64_t>(start);
    for (off_t at = start;;) {
      ssize_t n = ::pread(fd, chunk.data(), chunk.size(), at);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SysErr("read the archive");
      if (n == 0) break;
      TRY_CTX(scanner.Feed({chunk.data(), static_cast<size_t>(n)}), "archive");
      at += n;
      TRY(until.Check("the archive"));
    }
  } else {
    out.spool_ = TRY(berth::Open(spool_dir, O_TMPFILE | O_RDWR, 0600));
    out.file_ = out.spool_.get();
    Inflater inflater([&](std::string_view bytes) -> Result<void> {
      TRY(scanner.Feed(bytes));
      while (!bytes.empty()) {
        ssize_t n = ::write(out.file_, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return SysErr("write the archive to {}", spool_dir);
        bytes.remove_prefix(static_cast<size_t>(n));
      }
      return {};
    });
    while (true) {
      TRY(until.WaitFor(fd, POLLIN, "bytes of the archive"));
      ssize_t n = ::read(fd, chunk.data(), chunk.size());
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) return SysErr("read the archive");
      if (n == 0) break;
      TRY_CTX(inflater.Feed({chunk.data(), static_cast<size_t>(n)}), "archive");
    }
    TRY_CTX(inflater.Finish(), "archive");
  }
  TRY_CTX(scanner.Finish(), "archive");
  if (out.entries_.empty())
    return Err(Code::kInvalidArgument, "archive: it is empty; expected a docker-archive or an OCI layout as tar");
  return out;
}

Result<const ArchiveReader::Entry*> ArchiveReader::Follow(const std::string& name) const {
  std::string at = CleanName(name).value_or(name);
  for (int hop = 0; hop <= kMaxLinks; ++hop) {
    auto it = entries_.find(at);
    if (it == entries_.end())
      return Err(Code::kNotFound, "archive: no entry \"{}\"{}", name,
                 hop == 0 ? "" : fmt::format(" (a link to \"{}\")", at));
    if (it->second.directory)
      return Err(Code::kInvalidArgument, "archive: entry \"{}\" is a directory, expected a file", name);
    if (it->second.link.empty()) return &it->second;
    at = it->second.link;
  }
  return Err(Code::kInvalidArgument, "archive: entry \"{}\" is a link to a link more than {} times", name, kMaxLinks);
}

Result<std::string> ArchiveReader::Read(const std::string& name, size_t limit) const {
  const Entry* entry = TRY(Follow(name));
  if (entry->size > limit)
    return Err(Code::kInvalidArgument, "archive: entry \"{}\" has {} bytes, at most {} are read", name, entry->size,
               limit);
  std::string out(entry->size, '\0');
  for (size_t done = 0; done < out.size();) {
    ssize_t n = ::pread(file_, out.data() + done, out.size() - done, static_cast<off_t>(start_ + entry->offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Err(Code::kInvalidArgument, "archive: entry \"{}\" is cut short", name);
    done += static_cast<size_t>(n);
  }
  return out;
}

Result<void> ArchiveReader::Stream(const std::string& name, const Inflater::Sink& sink, const Deadline& until) const {
  const Entry* entry = TRY(Follow(name));
  std::vector<char> chunk(kChunk);
  for (uint64_t done = 0; done < entry->size;) {
    ssize_t n = ::pread(file_, chunk.data(), std::min<uint64_t>(chunk.size(), entry->size - done),
                        static_cast<off_t>(start_ + entry->offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Err(Code::kInvalidArgument, "archive: entry \"{}\" is cut short", name);
    done += static_cast<uint64_t>(n);
    TRY(sink({chunk.data(), static_cast<size_t>(n)}));
    TRY(until.Check("the archive"));
  }
  return {};
}

Result<void> ArchiveWriter::Header(const std::string& name, char type, unsigned mode, uint64_t size) {
  std::array<char, 512> block{};
  if (name.size() > 100) return Err(Code::kInternal, "archive entry \"{}\": the name is too long for its header", name);
  auto octal = [&](size_t at, size_t width, uint64_t value) {
    std::string text = fmt::format("{:0{}o}", value, width - 1);
    std::memcpy(block.data() + at, text.data(), width - 1);
  };
  std::memcpy(block.data(), name.data(), name.size());
  octal(100, 8, mode);
  octal(108, 8, 0);
  octal(116, 8, 0);
  if (size < (uint64_t{1} << 33)) {
    octal(124, 12, size);
  } else {  // base-256, as GNU and Go read and write it
    block[124] = static_cast<char>(0x80);
    for (int i = 0; i < 8; ++i) block[135 - i] = static_cast<char>(size >> (8 * i));
  }
  octal(136, 12, 0);
  std::memset(block.data() + 148, ' ', 8);
  block[156] = type;
  std::memcpy(block.data() + 257,
              "ustar\0"
              "00",
              8);
  unsigned sum = 0;
  for (char c : block) sum += static_cast<unsigned char>(c);
  std::string text = fmt::format("{:06o}", sum);
  std::memcpy(block.data() + 148, text.data(), 6);
  block[154] = '\0';
  left_ = block.size();
  return Write({block.data(), block.size()});
}

Result<void> ArchiveWriter::Write(std::string_view bytes) {
  if (bytes.size() > left_) return Err(Code::kDataLoss, "archive: an entry became longer while it was written");
  left_ -= bytes.size();
  struct stat st;
  if (::fstat(fd_, &st) != 0) return SysErr("write the archive");
  const bool socket = S_ISSOCK(st.st_mode), pipe = S_ISFIFO(st.st_mode);
  while (!bytes.empty()) {
    TRY(until_.WaitFor(fd_, POLLOUT, "the receiver of the archive"));
    // Never a write that may block past the deadline: a pipe that polls writable takes PIPE_BUF at once.
    ssize_t n = socket ? ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                       : ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), pipe ? PIPE_BUF : kChunk));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return SysErr("write the archive");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Result<void> ArchiveWriter::Directory(const std::string& name) { return Header(name + "/", '5', 0755, 0); }

Result<void> ArchiveWriter::Begin(const std::string& name, uint64_t size) {
  TRY(Header(name, '0', 0644, size));
  left_ = size;
  padding_ = (512 - size % 512) % 512;
  return {};
}

Result<void> ArchiveWriter::End() {
  if (left_ != 0) return Err(Code::kDataLoss, "archive: an entry became shorter while it was written");
  left_ = padding_;
  return Write(std::string(padding_, '\0'));
}

Result<void> ArchiveWriter::File(const std::string& name, std::string_view bytes) {
  TRY(Begin(name, bytes.size()));
  TRY(Write(bytes));
  return End();
}

Result<void> ArchiveWriter::Finish() {
  left_ = 1024;
  return Write(std::string(1024, '\0'));
}

}  // namespace berth::images
