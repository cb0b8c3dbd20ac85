#include "runtime/shim/log_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/init/text.h"

namespace berth::shim {
namespace {

void* MapPages(size_t size) {
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : at;
}

}  // namespace

// What a file has not taken: formatted records that begin at a record's start, then raw input of `stream`.
struct LogFile::Stall {
  size_t mapped;
  LogStream* stream;
  size_t partial;        // bytes at the beginning of `out` that the file already holds
  size_t out_size;
  size_t in_size;
  char* out() { return reinterpret_cast<char*>(this + 1); }
  char* in() { return out() + out_size; }
};

// Writes until all is written or refused.
bool LogFile::Push(const char* bytes, size_t size, size_t* sent) {
  size_t done = 0;
  bool good = true;
  while (good && done < size) {
    ssize_t n = write(fd_, bytes + done, size - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n >= 0 || errno != EINTR) {
      error_ = n < 0 ? errno : ENOSPC;
      ++counters_.errors;
      good = false;
    }
  }
  if (good) error_ = 0;
  size_ += done;
  counters_.bytes += done;
  *sent += done;
  return good;
}

// `whole`: `bytes` begin with a record. *sent counts from 0 also when it fails.
bool LogFile::Send(const char* bytes, size_t size, size_t* sent, bool whole) {
  *sent = 0;
  if (max_bytes_ == 0) return Push(bytes, size, sent);
  if (!whole) {   // the rest of a record belongs to its beginning
    size_t rest = FindLine(bytes, size);
    if (rest < size) ++rest;
    if (!Push(bytes, rest, sent)) return false;
  }
  while (*sent < size) {
    const char* at = bytes + *sent;
    size_t left = size - *sent;
    uint64_t room = max_bytes_ > size_ ? max_bytes_ - size_ : 0;
    size_t part = left;
    if (left > room) {
      part = static_cast<size_t>(room);
      while (part > 0 && at[part - 1] != '\n') --part;
      if (part == 0 && size_ > 0 && Turn()) continue;
      if (part == 0) {   // a record that is longer than a file may be, or no next file is to be had now
        part = size_ == 0 ? FindLine(at, left) : left;
        if (part < left) ++part;
      }
    }
    if (!Push(at, part, sent)) return false;
  }
  return true;
}

bool LogFile::Keep(LogStream* stream, const char* out, size_t out_size, size_t sent, const char* in, size_t in_size) {
  size_t begin = sent;  // of the record that is only partly written
  while (begin > 0 && out[begin - 1] != '\n') --begin;
  while (true) {
    size_t mapped = sizeof(Stall) + (out_size - begin) + in_size + kSlop;
    auto* stall = static_cast<Stall*>(MapPages(mapped));
    if (stall != nullptr) {
      *stall = {mapped, stream, sent - begin, out_size - begin, in_size};
      memcpy(stall->out(), out + begin, out_size - begin);
      memcpy(stall->in(), in, in_size);
      stall_ = stall;
      return false;
    }
    // Neither disk nor memory. Losing bytes is the only other choice, so everything waits here.
    timespec pause{0, 100'000'000};
    nanosleep(&pause, nullptr);
    size_t more = 0;
    bool all = Push(out + sent, out_size - sent, &more);
    sent += more;
    if (all) return true;
    begin = sent;
    while (begin > 0 && out[begin - 1] != '\n') --begin;
  }
}

bool LogFile::Write(LogStream& stream, HoldPool& pool, const Stamp& stamp, const char* in, size_t size, char* out) {
  if (fd_ == kNone) return true;
  while (size > 0) {
    size_t used = 0, sent = 0;
    size_t length = FormatRecords(stream, pool, stamp, in, size, &used, out, kOutput);
    in += used;
    size -= used;
    if (!Send(out, length, &sent) && !Keep(&stream, out, length, sent, in, size)) return false;
  }
  return true;
}

bool LogFile::Flush(LogStream& stream, HoldPool& pool, const Stamp& stamp, char* out) {
  if (stream.held == 0) return true;
  size_t sent = 0;
  size_t length = FlushRecords(stream, pool, stamp, out);
  if (fd_ == kNone || Send(out, length, &sent)) return true;
  return Keep(&stream, out, length, sent, nullptr, 0);
}

bool LogFile::Notice(LogStream& stream, const Stamp& stamp, char* out) {
  size_t sent = 0;
  size_t length = FormatNotice(stream, stamp, out);
  if (fd_ == kNone || Send(out, length, &sent)) return true;
  return Keep(&stream, out, length, sent, nullptr, 0);
}

bool LogFile::Retry(HoldPool& pool, const Stamp& stamp, char* out) {
  if (stall_ == nullptr) return true;
  Stall* stall = stall_;
  size_t sent = 0;
  bool all = Send(stall->out() + stall->partial, stall->out_size - stall->partial, &sent, stall->partial == 0);
  if (!all) {
    size_t taken = stall->partial + sent;
    size_t begin = taken;
    while (begin > 0 && stall->out()[begin - 1] != '\n') --begin;
    stall->partial = taken - begin;
    if (begin > 0) {
      memmove(stall->out(), stall->out() + begin, stall->out_size - begin + stall->in_size);
      stall->out_size -= begin;
    }
    return false;
  }
  stall_ = nullptr;
  bool done = Write(*stall->stream, pool, stamp, stall->in(), stall->in_size, out);
  munmap(stall, stall->mapped);
  return done;
}

void LogFile::Reopen(int fd) {
  if (stall_ != nullptr && stall_->partial > 0) {
    struct stat status;
    if (fstat(fd_, &status) == 0 && S_ISREG(status.st_mode) && status.st_size >= static_cast<off_t>(stall_->partial) &&
        ftruncate(fd_, status.st_size - static_cast<off_t>(stall_->partial)) == 0)
      stall_->partial = 0;
  }
  if (fd_ != kNone) close(fd_);
  Open(fd);
}

void LogFile::Open(int fd) {
  fd_ = fd;
  error_ = 0;
  Measure();
}

void LogFile::Rotate(int dir, const char* name, uint64_t max_bytes, uint32_t files) {
  dir_ = dir;
  strncpy(name_, name, sizeof name_ - 1);
  max_bytes_ = max_bytes;
  files_ = files;
  Measure();
}

void LogFile::Measure() {
  struct stat status;
  size_ = max_bytes_ != 0 && fd_ != kNone && fstat(fd_, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
}

// Begins the next file. False: this one must do for now, nothing has changed.
bool LogFile::Turn() {
  if (files_ <= 1) {
    if (ftruncate(fd_, 0) < 0) return false;
    size_ = 0;
    ++counters_.rotations;
    return true;
  }
  // The new file first: on a full disk the old one is still in its place. Under another name until then, and never through
  // a link, as the directory may be mounted in a container.
  init::Line<300> next;
  next.text << name_ << ".next";
  int fd = -1;
  for (int attempt = 0; attempt < 2 && fd < 0; ++attempt) {
    fd = openat(dir_, next.bytes, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0640);
    if (fd < 0 && (errno != EEXIST || unlinkat(dir_, next.bytes, 0) < 0)) break;
  }
  // Up to the first number that is free, or the last that is kept.
  uint32_t last = 1;
  for (struct stat status; last < files_ - 1; ++last) {
    init::Line<300> numbered;
    numbered.text << name_ << "." << last;
    if (fstatat(dir_, numbered.bytes, &status, AT_SYMLINK_NOFOLLOW) < 0) break;
  }
  bool good = fd >= 0;
  for (uint32_t i = last; good && i >= 1; --i) {
    init::Line<300> from, to;
    from.text << name_;
    if (i > 1) from.text << "." << (i - 1);
    to.text << name_ << "." << i;
    good = renameat(dir_, from.bytes, dir_, to.bytes) == 0 || errno == ENOENT;
  }
  good = good && renameat(dir_, next.bytes, dir_, name_) == 0;
  if (!good) {
    error_ = errno;
    ++counters_.errors;
    if (fd >= 0) {
      close(fd);
      unlinkat(dir_, next.bytes, 0);
    }
    return false;
  }
  close(fd_);
  fd_ = fd;
  size_ = 0;
  ++counters_.rotations;
  return true;
}

void LogFile::Close(HoldPool& pool) {
  static_cast<void>(pool);
  if (stall_ != nullptr) munmap(stall_, stall_->mapped);
  stall_ = nullptr;
  if (fd_ != kNone) close(fd_);
  if (dir_ >= 0) close(dir_);
  fd_ = kNone;
  dir_ = -1;
}

}  // namespace berth::shim
