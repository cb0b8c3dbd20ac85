#include "images/layers/erofs.h"

#include <unistd.h>

#include <bit>

#include "images/layers/chunks.h"
#include "images/layers/crc32c.h"

namespace berth::images {
namespace {

constexpr uint64_t kBlock = 512;
constexpr uint64_t kSuperblockAt = 1024, kSuperblockSize = 128, kDeviceSlotSize = 128;
constexpr uint64_t kMetadataAt = kSuperblockAt + kSuperblockSize + kDeviceSlotSize;
constexpr uint64_t kInodeSize = 64, kSlot = 32, kXattrHeader = 12;
constexpr uint32_t kMagic = 0xE0F5E1E2, kNoBlock = 0xFFFFFFFF;
constexpr uint32_t kCompatChecksum = 1, kCompatMtime = 2, kIncompatChunked = 4, kIncompatDeviceTable = 8;
constexpr uint16_t kExtendedInode = 1;
constexpr uint16_t kChunkIndexes = 1 << 5;  // 8-byte entries, which can name a device
constexpr uint16_t kTarDevice = 1;
constexpr uint64_t kIndexFloor = 256u << 20;  // what an index may take whatever the size of the tar
enum Layout : uint8_t { kPlain = 0, kInline = 2, kChunked = 4 };

uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

struct Dirent {
  std::string_view name;
  InodeId id;
};

struct Plan {
  uint32_t nid = 0;              // 0: not placed yet; the superblock is there
  uint32_t block = kNoBlock;     // first one in the data area, from its start
  InodeId parent = Tree::kRoot;  // of directories
  Layout layout = kPlain;
  uint8_t chunk_bits = 0;
};

struct XattrName {
  uint8_t prefix;
  std::string_view rest;
};

XattrName Shorten(std::string_view name) {
  if (name == "system.posix_acl_access") return {2, {}};
  if (name == "system.posix_acl_default") return {3, {}};
  if (name.starts_with("user.")) return {1, name.substr(5)};
  if (name.starts_with("trusted.")) return {4, name.substr(8)};
  return {6, name.substr(sizeof "security." - 1)};
}

uint64_t XattrBytes(const Xattrs& xattrs) {
  if (xattrs.empty()) return 0;
  uint64_t bytes = kXattrHeader;
  for (const auto& [name, value] : xattrs) bytes += RoundUp(4 + Shorten(name).rest.size() + value.size(), 4);
  return bytes;
}

uint8_t DirentType(EntryType type) {
  switch (type) {
    case EntryType::kFile:
    case EntryType::kHardLink:
      return 1;
    case EntryType::kDirectory:
      return 2;
    case EntryType::kCharDevice:
      return 3;
    case EntryType::kBlockDevice:
      return 4;
    case EntryType::kFifo:
      return 5;
    case EntryType::kSymlink:
      return 7;
  }
  __builtin_unreachable();
}

uint16_t ModeOf(const Inode& inode) {
  switch (inode.type) {
    case EntryType::kFile:
    case EntryType::kHardLink:
      return 0100000 | inode.mode;
    case EntryType::kDirectory:
      return 0040000 | inode.mode;
    case EntryType::kCharDevice:
      return 0020000 | inode.mode;
    case EntryType::kBlockDevice:
      return 0060000 | inode.mode;
    case EntryType::kFifo:
      return 0010000 | inode.mode;
    case EntryType::kSymlink:
      return 0120000 | inode.mode;
  }
  __builtin_unreachable();
}

// The image goes out in order through one buffer, hashed on the way. The first buffer holds the superblock's checksum
// range.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) { buffer_.reserve(kFlushAt + 4096); }

  void U8(uint8_t v) { buffer_ += static_cast<char>(v); }
  void U16(uint16_t v) { Little(v, 2); }
  void U32(uint32_t v) { Little(v, 4); }
  void U64(uint64_t v) { Little(v, 8); }
  void Bytes(std::string_view bytes) { buffer_ += bytes; }
  void Zeros(uint64_t count) { buffer_.append(count, '\0'); }
  void ZerosTo(uint64_t at) { Zeros(at - position()); }
  uint64_t position() const { return flushed_ + buffer_.size(); }
  Result<void> Drain() { return buffer_.size() >= kFlushAt ? Flush() : Result<void>(); }

  Result<void> Flush() {
    if (flushed_ == 0) {
      std::string_view range = std::string_view(buffer_).substr(kSuperblockAt, kBlock);
      uint32_t crc = Crc32c(0xFFFFFFFF, range);
      for (int i = 0; i < 4; ++i) buffer_[kSuperblockAt + 4 + i] = static_cast<char>(crc >> (8 * i));
    }
    hasher_.Update(buffer_.data(), buffer_.size());
    for (std::string_view rest = buffer_; !rest.empty();) {
      ssize_t n = write(fd_, rest.data(), rest.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return SysErr("write layer index");
      rest.remove_prefix(static_cast<size_t>(n));
    }
    flushed_ += buffer_.size();
    buffer_.clear();
    return {};
  }
  Digest Finish() { return hasher_.Finish(); }

 private:
  static constexpr size_t kFlushAt = 1 << 20;
  void Little(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) buffer_ += static_cast<char>(value >> (8 * i));
  }
  int fd_;
  std::string buffer_;
  uint64_t flushed_ = 0;
  Hasher hasher_;
};

class Writer {
 public:
  Writer(const ErofsRequest& request, int out)
      : request_(request), tree_(request.tree), out_(out), plans_(tree_.size()) {}

  Result<ErofsResult> Run() {
    if (request_.tar_size / kBlock >= kNoBlock)
      return Err(Code::kInvalidArgument, "a layer of {} bytes: at most 2 TiB can be indexed", request_.tar_size);
    TRY(PlanAll());
    uint64_t metadata_end = position_;
    data_start_ = static_cast<uint32_t>(RoundUp(std::max(metadata_end, kSuperblockAt + kBlock), kBlock) / kBlock);
    uint64_t blocks = data_start_ + data_blocks_;
    if (blocks >= kNoBlock || metadata_end / kSlot > UINT32_MAX)
      return Err(Code::kInvalidArgument, "the layer's index would have {} blocks, too many", blocks);
    WriteHead(static_cast<uint32_t>(blocks));
    for (InodeId id : order_) {
      TRY(WriteInode(id));
      TRY(out_.Drain());
    }
    out_.ZerosTo(data_start_ * kBlock);
    for (InodeId id : order_) {
      TRY(WriteData(id));
      TRY(out_.Drain());
    }
    TRY(out_.Flush());
    return ErofsResult{out_.position(), out_.Finish()};
  }

 private:
  // A directory's children lie behind each other, so that a listing with stat reads the index in order.
  Result<void> PlanAll() {
    order_.reserve(tree_.reachable());
    TRY(PlanInode(Tree::kRoot));
    std::vector<InodeId> todo{Tree::kRoot};
    while (!todo.empty()) {
      InodeId id = todo.back();
      todo.pop_back();
      const auto& children = tree_.inode(id).directory->children;
      for (const auto& [name, child] : children) {
        if (plans_[child].nid != 0) continue;  // a hard link seen before
        if (tree_.inode(child).directory) plans_[child].parent = id;
        TRY(PlanInode(child));
      }
      for (auto it = children.rbegin(); it != children.rend(); ++it)
        if (tree_.inode(it->second).directory) todo.push_back(it->second);
    }
    return {};
  }

  std::vector<Dirent> Listing(InodeId id) const {
    const auto& children = tree_.inode(id).directory->children;
    std::vector<Dirent> list;
    list.reserve(children.size() + 2);
    for (const auto& [name, child] : children) list.push_back({name, child});
    // "." and ".." are ordinary names here: "!x" and "-x" sort before them.
    auto insert = [&](std::string_view name, InodeId target) {
      list.insert(std::ranges::lower_bound(list, name, {}, &Dirent::name), {name, target});
    };
    insert(".", id);
    insert("..", plans_[id].parent);
    return list;
  }

  // Calls f(first, last, used bytes) for each block of the listing.
  template <class F>
  static void ForEachBlock(const std::vector<Dirent>& list, F&& f) {
    size_t first = 0;
    uint64_t used = 0;
    for (size_t i = 0; i < list.size(); ++i) {
      uint64_t need = 12 + list[i].name.size();
      if (used + need > kBlock) {
        f(first, i, used);
        first = i;
        used = 0;
      }
      used += need;
    }
    f(first, list.size(), used);
  }

  struct DirectorySize {
    uint64_t blocks = 0, last = 0;
    uint64_t bytes() const { return (blocks - 1) * kBlock + last; }
  };
  static DirectorySize Measure(const std::vector<Dirent>& list) {
    DirectorySize size;
    ForEachBlock(list, [&](size_t, size_t, uint64_t used) {
      ++size.blocks;
      size.last = used;
    });
    return size;
  }

  // Gives the inode its place. A tail behind it must not cross a block, so the inode may move forward; a tail that fits
  // nowhere behind it goes to a block of its own.
  void Place(Plan& plan, uint64_t head, uint64_t tail) {
    uint64_t at = RoundUp(position_, kSlot);
    plan.layout = kPlain;
    if (tail > 0 && head % kSlot + tail <= kBlock) {
      while ((at + head) % kBlock + tail > kBlock) at += kSlot;
      plan.layout = kInline;
      head += tail;
    }
    plan.nid = static_cast<uint32_t>(at / kSlot);
    position_ = at + head;
  }

  void TakeBlocks(Plan& plan, uint64_t count) {
    if (count == 0) return;
    plan.block = static_cast<uint32_t>(data_blocks_);
    data_blocks_ += count;
  }

  Result<void> PlanInode(InodeId id) {
    const Inode& inode = tree_.inode(id);
    Plan& plan = plans_[id];
    order_.push_back(id);
    uint64_t head = kInodeSize + XattrBytes(tree_.OnDisk(inode));
    if (inode.directory) {
      DirectorySize size = Measure(Listing(id));
      Place(plan, head, size.last < kBlock ? size.last : 0);
      TakeBlocks(plan, plan.layout == kInline ? size.blocks - 1 : size.blocks);
    } else if (inode.type == EntryType::kSymlink) {
      Place(plan, head, inode.target.size() < kBlock ? inode.target.size() : 0);
      if (plan.layout == kPlain) TakeBlocks(plan, RoundUp(inode.target.size(), kBlock) / kBlock);
    } else if (inode.type == EntryType::kFile && inode.size > 0) {
      Chunks chunks = TRY(ChunksOf(inode));
      TRY(chunks.Choose());
      uint64_t budget = kIndexFloor + 2 * request_.tar_size;
      if (inode.lower_path.empty() && (spent_ += chunks.cost()) > budget)
        return Err(Code::kInvalidArgument, "a sparse file of {} bytes in {} pieces cannot be indexed within {} bytes",
                   inode.size, inode.extents.size(), budget);
      plan.chunk_bits = static_cast<uint8_t>(chunks.bits());
      Place(plan, RoundUp(head, 8) + 8 * chunks.count(), 0);
      plan.layout = kChunked;
      TakeBlocks(plan, chunks.copied() / kBlock);
    } else {
      Place(plan, head, 0);
    }
    return {};
  }

  Result<Chunks> ChunksOf(const Inode& inode) const {
    if (inode.lower_path.empty()) return Chunks(inode.size, inode.extents, Chunks::Source::kTar);
    return Chunks(inode.size, TRY(DataExtents(inode)), Chunks::Source::kCopy);
  }

  // Where a file of the layers below has data.
  Result<std::vector<Extent>> DataExtents(const Inode& inode) const {
    unique_fd fd = TRY(request_.lower->Open(inode.lower_path));
    std::vector<Extent> extents;
    for (off_t at = 0; at < static_cast<off_t>(inode.size);) {
      off_t data = lseek(fd.get(), at, SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      if (data < 0) return SysErr("find data in {}", inode.lower_path);
      off_t hole = lseek(fd.get(), data, SEEK_HOLE);
      if (hole < 0) return SysErr("find the end of data in {}", inode.lower_path);
      uint64_t end = std::min(static_cast<uint64_t>(hole), inode.size);
      extents.push_back({static_cast<uint64_t>(data), end - static_cast<uint64_t>(data), static_cast<uint64_t>(data)});
      at = hole;
    }
    return extents;
  }

  void WriteHead(uint32_t blocks) {
    out_.Zeros(kSuperblockAt);
    out_.U32(kMagic);
    out_.U32(0);  // checksum, filled in when the first buffer leaves
    out_.U32(kCompatChecksum | kCompatMtime);
    out_.U8(std::countr_zero(kBlock));
    out_.U8(0);
    out_.U16(static_cast<uint16_t>(plans_[Tree::kRoot].nid));
    out_.U64(order_.size());
    out_.U64(0);  // epoch of compact inodes: there are none
    out_.U32(0);
    out_.U32(blocks);
    out_.U32(0);  // metadata counts from block 0
    out_.U32(0);  // no shared xattrs
    out_.Bytes({reinterpret_cast<const char*>(request_.uuid.data()), request_.uuid.size()});
    out_.Bytes(std::string_view("berth\0\0\0\0\0\0\0\0\0\0\0", 16));
    out_.U32(kIncompatChunked | kIncompatDeviceTable);
    out_.U16(0);
    out_.U16(1);  // one more device
    out_.U16((kSuperblockAt + kSuperblockSize) / kDeviceSlotSize);
    out_.ZerosTo(kSuperblockAt + kSuperblockSize);
    std::string tag = request_.tag.substr(0, 64);
    out_.Bytes(tag);
    out_.Zeros(64 - tag.size());
    out_.U32(static_cast<uint32_t>(RoundUp(request_.tar_size, kBlock) / kBlock));
    out_.ZerosTo(kMetadataAt);
  }

  uint32_t BlockOf(const Plan& plan) const { return plan.block == kNoBlock ? kNoBlock : data_start_ + plan.block; }

  Result<void> WriteInode(InodeId id) {
    const Inode& inode = tree_.inode(id);
    const Plan& plan = plans_[id];
    Xattrs xattrs = tree_.OnDisk(inode);
    uint64_t xattr_bytes = XattrBytes(xattrs);
    std::vector<Dirent> list;
    uint64_t size = inode.size;
    uint32_t place = 0;
    if (inode.directory) {
      list = Listing(id);
      size = Measure(list).bytes();
      place = BlockOf(plan);
    } else if (inode.type == EntryType::kSymlink) {
      size = inode.target.size();
      place = BlockOf(plan);
    } else if (plan.layout == kChunked) {
      place = kChunkIndexes | static_cast<uint32_t>(plan.chunk_bits - std::countr_zero(kBlock));
    } else if (inode.type != EntryType::kFile) {
      // new_encode_dev() of the kernel
      place = (inode.minor & 0xff) | (inode.major << 8) | ((inode.minor & ~0xffu) << 12);
    }
    out_.ZerosTo(uint64_t{plan.nid} * kSlot);
    out_.U16(static_cast<uint16_t>(kExtendedInode | (plan.layout << 1)));
    out_.U16(xattr_bytes == 0 ? 0 : static_cast<uint16_t>(1 + (xattr_bytes - kXattrHeader) / 4));
    out_.U16(ModeOf(inode));
    out_.U16(0);
    out_.U64(size);
    out_.U32(place);
    out_.U32(plan.nid);
    out_.U32(inode.uid);
    out_.U32(inode.gid);
    out_.U64(static_cast<uint64_t>(inode.mtime.seconds));
    out_.U32(inode.mtime.nanoseconds);
    out_.U32(inode.nlink);
    out_.Zeros(16);
    if (!xattrs.empty()) {
      out_.Zeros(kXattrHeader);  // no filter, nothing shared
      for (const auto& [name, value] : xattrs) {
        XattrName shortened = Shorten(name);
        out_.U8(static_cast<uint8_t>(shortened.rest.size()));
        out_.U8(shortened.prefix);
        out_.U16(static_cast<uint16_t>(value.size()));
        out_.Bytes(shortened.rest);
        out_.Bytes(value);
        out_.ZerosTo(RoundUp(out_.position(), 4));
      }
    }
    if (plan.layout == kChunked) return WriteChunkEntries(inode, plan);
    if (plan.layout != kInline) return {};
    if (inode.directory)
      ForEachBlock(list, [&](size_t first, size_t last, uint64_t) {
        if (last == list.size()) WriteDirents(list, first, last);
      });
    else
      out_.Bytes(inode.target);
    return {};
  }

  Result<void> WriteChunkEntries(const Inode& inode, const Plan& plan) {
    Chunks chunks = TRY(ChunksOf(inode));
    chunks.SetBits(plan.chunk_bits);
    out_.ZerosTo(RoundUp(out_.position(), 8));
    uint64_t block = plan.block == kNoBlock ? 0 : BlockOf(plan);
    Result<void> done;
    chunks.ForEachRun([&](const Chunks::Run& run) {
      for (uint64_t i = 0; i < run.count && done; ++i) {
        out_.U16(0);
        switch (run.kind) {
          case Chunks::Kind::kHole:
            out_.U16(0);
            out_.U32(kNoBlock);
            break;
          case Chunks::Kind::kTar:
            out_.U16(kTarDevice);
            out_.U32(static_cast<uint32_t>((run.source + (i << chunks.bits())) / kBlock));
            break;
          case Chunks::Kind::kCopy:
            out_.U16(0);
            out_.U32(static_cast<uint32_t>(block));
            block += RoundUp(chunks.BytesIn(run.first + i), kBlock) / kBlock;
            break;
        }
        done = out_.Drain();
      }
    });
    return done;
  }

  // Dirents first, then the names; the first name offset tells the reader how many there are.
  void WriteDirents(const std::vector<Dirent>& list, size_t first, size_t last) {
    uint64_t name_at = 12 * (last - first);
    for (size_t i = first; i < last; ++i) {
      out_.U64(plans_[list[i].id].nid);
      out_.U16(static_cast<uint16_t>(name_at));
      out_.U8(DirentType(tree_.inode(list[i].id).type));
      out_.U8(0);
      name_at += list[i].name.size();
    }
    for (size_t i = first; i < last; ++i) out_.Bytes(list[i].name);
  }

  Result<void> WriteData(InodeId id) {
    const Plan& plan = plans_[id];
    if (plan.block == kNoBlock) return {};
    const Inode& inode = tree_.inode(id);
    if (inode.directory) {
      std::vector<Dirent> list = Listing(id);
      ForEachBlock(list, [&](size_t first, size_t last, uint64_t) {
        if (last == list.size() && plan.layout == kInline) return;
        WriteDirents(list, first, last);
        out_.ZerosTo(RoundUp(out_.position(), kBlock));
      });
      return {};
    }
    if (inode.type == EntryType::kSymlink) {
      out_.Bytes(inode.target);
      out_.ZerosTo(RoundUp(out_.position(), kBlock));
      return {};
    }
    Chunks chunks = TRY(ChunksOf(inode));
    chunks.SetBits(plan.chunk_bits);
    unique_fd lower;
    if (!inode.lower_path.empty()) lower = TRY(request_.lower->Open(inode.lower_path));
    int from = lower ? lower.get() : request_.tar;
    Result<void> done;
    chunks.ForEachRun([&](const Chunks::Run& run) {
      if (run.kind != Chunks::Kind::kCopy || !done) return;
      // Within a run only the last chunk may be shorter than the others, at the end of the file.
      uint64_t begin = run.first << chunks.bits();
      uint64_t end = ((run.first + run.count - 1) << chunks.bits()) + chunks.BytesIn(run.first + run.count - 1);
      done = CopyRange(chunks, from, begin, end);
    });
    return done;
  }

  Result<void> CopyRange(const Chunks& chunks, int from, uint64_t begin, uint64_t end) {
    std::string buffer;
    for (uint64_t at = begin; at < end;) {
      uint64_t length = std::min<uint64_t>(end - at, 256 << 10);
      buffer.assign(length, '\0');
      for (auto e = chunks.FirstAfter(at); e != chunks.extents().end() && e->offset < at + length; ++e) {
        uint64_t low = std::max(e->offset, at), high = std::min(e->offset + e->length, at + length);
        for (uint64_t done = low; done < high;) {
          ssize_t n =
              pread(from, buffer.data() + (done - at), high - done, static_cast<off_t>(e->source + (done - e->offset)));
          if (n < 0 && errno == EINTR) continue;
          if (n < 0) return SysErr("read layer data at {}", e->source + (done - e->offset));
          if (n == 0) return Err(Code::kDataLoss, "layer data ends at {}", e->source + (done - e->offset));
          done += static_cast<uint64_t>(n);
        }
      }
      out_.Bytes(buffer);
      TRY(out_.Drain());
      at += length;
    }
    out_.ZerosTo(RoundUp(out_.position(), kBlock));
    return {};
  }

  const ErofsRequest& request_;
  const Tree& tree_;
  Output out_;
  std::vector<Plan> plans_;
  std::vector<InodeId> order_;
  uint64_t position_ = kMetadataAt;
  uint64_t data_blocks_ = 0;
  uint32_t data_start_ = 0;
  uint64_t spent_ = 0;  // on sparse files
};

}  // namespace

Result<ErofsResult> WriteErofs(const ErofsRequest& request, int out) { return Writer(request, out).Run(); }

}  // namespace berth::images
