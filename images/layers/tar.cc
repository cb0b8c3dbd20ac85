#include "images/layers/tar.h"

#include <unistd.h>

#include "images/layers/tar_number.h"

namespace berth::images {
namespace {

constexpr uint64_t kBlock = 512;
constexpr uint32_t kNoId = 0xffffffff;            // (uid_t)-1 means "leave alone" to the kernel
constexpr uint64_t kMaxSize = uint64_t{1} << 62;  // keeps every sum of two in 64 bits

// pax(1), ustar interchange format; GNU and star put other things behind byte 345.
struct Field {
  size_t at, size;
};
constexpr Field kName{0, 100}, kMode{100, 8}, kUid{108, 8}, kGid{116, 8}, kSize{124, 12}, kMtime{136, 12},
    kChecksum{148, 8}, kLink{157, 100}, kMajor{329, 8}, kMinor{337, 8}, kPrefix{345, 155}, kStarPrefix{345, 131};
constexpr size_t kTypeAt = 156, kMagicAt = 257, kStarMagicAt = 508;
// GNU tar manual, "Basic Tar Format", old GNU sparse headers.
constexpr size_t kSparseAt = 386, kSparseInHeader = 4, kSparseMoreAt = 482, kRealSizeAt = 483, kSparseInExtension = 21,
                 kExtensionMoreAt = 504;

uint64_t Padded(uint64_t size) { return (size + kBlock - 1) & ~(kBlock - 1); }

std::string_view Get(const char* block, Field field) { return {block + field.at, field.size}; }

std::string_view ToNul(std::string_view text) { return text.substr(0, text.find('\0')); }

bool IsZero(const char* block) {
  return std::all_of(block, block + kBlock, [](char c) { return c == 0; });
}

// Old writers summed signed characters; both are taken.
bool ChecksumMatches(const char* block) {
  auto stored = ParseHeaderNumber(Get(block, kChecksum));
  if (!stored) return false;
  int64_t as_unsigned = 0, as_signed = 0;
  for (size_t i = 0; i < kBlock; ++i) {
    char c = i >= kChecksum.at && i < kChecksum.at + kChecksum.size ? ' ' : block[i];
    as_unsigned += static_cast<unsigned char>(c);
    as_signed += static_cast<signed char>(c);
  }
  return *stored == as_unsigned || *stored == as_signed;
}

bool HasData(char type) {
  return type < '1' || type > '6';
}  // Go's archive/tar, on which all engines stand, says the same

}  // namespace

struct TarScanner::Pending {
  std::optional<std::string> path, target;            // pax
  std::optional<std::string> long_path, long_target;  // GNU L, K
  std::optional<uint64_t> size, uid, gid;
  std::optional<Timestamp> mtime;
  Xattrs xattrs;
  Xattrs base64_xattrs;
  // GNU sparse in pax form: 0.0 as repeated records, 0.1 as one map, 1.0 with the map before the data.
  std::optional<std::string> sparse_name;
  std::optional<uint64_t> real_size;
  std::optional<uint64_t> sparse_offset;  // 0.0: waits for its numbytes
  std::vector<std::pair<uint64_t, uint64_t>> sparse;
  bool is_sparse = false;
  bool map_in_data = false;
  // 1.0 map being read
  std::string digits;
  std::optional<uint64_t> map_count;
  std::optional<uint64_t> map_offset;
  bool any = false;
};

TarScanner::TarScanner(Sink sink, TarLimits limits)
    : sink_(std::move(sink)), limits_(limits), pending_(std::make_unique<Pending>()) {}
TarScanner::~TarScanner() = default;

std::string TarScanner::Name() const {
  std::string_view path = entry_.path;
  if (path.empty()) return fmt::format("tar entry {}", entries_ + 1);
  return fmt::format("tar entry {} {:?}{}", entries_ + 1, path.substr(0, 300), path.size() > 300 ? "..." : "");
}

template <class... Args>
std::unexpected<Error> TarScanner::Bad(std::string_view format, const Args&... args) const {
  return Err(Code::kInvalidArgument, "{}: {}", Name(), fmt::format(fmt::runtime(format), args...));
}

Result<void> TarScanner::Charge(uint64_t bytes) {
  metadata_ += bytes;
  if (metadata_ > limits_.metadata) return Bad("names and attributes of the archive exceed {} bytes", limits_.metadata);
  return {};
}

Result<void> TarScanner::Feed(std::string_view bytes) {
  if (failed_) return std::unexpected(*failed_);
  while (!bytes.empty()) {
    if (auto done = Consume(bytes); !done) {
      failed_ = done.error();
      return done;
    }
  }
  return {};
}

Result<void> TarScanner::Consume(std::string_view& bytes) {
  auto take = [&](uint64_t n) {
    std::string_view part = bytes.substr(0, n);
    bytes.remove_prefix(part.size());
    offset_ += part.size();
    return part;
  };
  if (state_ == State::kEnd) {
    take(bytes.size());
    return {};
  }
  if (state_ == State::kSkip) {
    skip_ -= take(skip_).size();
    if (skip_ == 0) state_ = State::kHeader;
    return {};
  }
  uint64_t want = state_ == State::kExtended ? Padded(need_) : kBlock;
  std::string whole;
  std::string_view block;
  if (buffer_.empty() && bytes.size() >= want) {
    block = take(want);
  } else {
    buffer_ += take(want - buffer_.size());
    if (buffer_.size() < want) return {};
    whole.swap(buffer_);
    block = whole;
  }
  switch (state_) {
    case State::kHeader:
      return OnHeader(block.data());
    case State::kExtended:
      return OnExtended(block.substr(0, need_));
    case State::kSparseHeaders:
      return OnSparseHeader(block.data());
    case State::kSparseMap:
      return OnSparseMapBlock(block.data());
    case State::kSkip:
    case State::kEnd:
      break;
  }
  return {};
}

Result<void> TarScanner::Finish() {
  if (failed_) return std::unexpected(*failed_);
  auto check = [&]() -> Result<void> {
    switch (state_) {
      case State::kEnd:
        return {};
      case State::kHeader:
        if (!buffer_.empty()) return Bad("the archive ends inside the header, at byte {}", offset_);
        if (pending_->any) return Bad("the archive ends behind an extended header");
        return {};
      case State::kSkip: {
        --entries_;  // the entry was counted when its header was complete
        auto error = Bad("the archive ends at byte {}, {} bytes short of the end of the data", offset_, skip_);
        ++entries_;
        return error;
      }
      default:
        return Bad("the archive ends inside an extended header, at byte {}", offset_);
    }
  };
  auto done = check();
  if (!done) failed_ = done.error();
  return done;
}

Result<void> TarScanner::OnHeader(const char* block) {
  entry_ = TarEntry();
  if (IsZero(block)) {
    if (pending_->any) return Bad("an extended header has no entry behind it");
    if (zero_block_) state_ = State::kEnd;
    zero_block_ = true;
    return {};
  }
  std::string_view raw_name = ToNul(Get(block, kName));
  entry_.path = raw_name;
  if (zero_block_) return Bad("a single zero block stands before it, want two or none");
  if (!ChecksumMatches(block))
    return Bad("header checksum is wrong at byte {}: not a tar archive, or damaged", offset_ - kBlock);
  auto size = ParseHeaderNumber(Get(block, kSize));
  if (!size || *size < 0 || static_cast<uint64_t>(*size) > kMaxSize)
    return Bad("size field is not a number that a file can have");
  char type = block[kTypeAt];
  switch (type) {
    case 'x':
    case 'X':
    case 'L':
    case 'K':
      if (static_cast<uint64_t>(*size) > limits_.extended)
        return Bad("extended header of {} bytes, at most {} are taken", *size, limits_.extended);
      need_ = static_cast<uint64_t>(*size);
      extended_type_ = type;
      pending_->any = true;
      if (need_ == 0) return OnExtended({});
      state_ = State::kExtended;
      return {};
    case 'g':
    case 'V':  // global defaults, volume label: say nothing about files
      skip_ = type == 'g' ? Padded(static_cast<uint64_t>(*size)) : 0;
      if (skip_ > 0) state_ = State::kSkip;
      return {};
    case 'M':
      return Bad("a part of a multi-volume archive cannot be a layer");
    case 'N':
      return Bad("type N (old GNU long names) is not supported");
    case 's':
      return Bad("a socket cannot be in a layer");
    default:
      break;
  }
  stored_ = HasData(type) ? static_cast<uint64_t>(*size) : 0;
  TRY(ApplyPending(block));
  if (type == 'S') {
    auto real = ParseHeaderNumber({block + kRealSizeAt, 12});
    if (!real || *real < 0) return Bad("sparse file: real size is not a number");
    pending_->real_size = static_cast<uint64_t>(*real);
    pending_->is_sparse = true;
    for (size_t i = 0; i < kSparseInHeader; ++i) {
      const char* pair = block + kSparseAt + i * 24;
      if (*pair == 0) break;
      auto offset = ParseHeaderNumber({pair, 12}), length = ParseHeaderNumber({pair + 12, 12});
      if (!offset || !length || *offset < 0 || *length < 0)
        return Bad("sparse map entry {} is not a pair of numbers", i);
      TRY(AddSparse(static_cast<uint64_t>(*offset), static_cast<uint64_t>(*length)));
    }
    if (block[kSparseMoreAt] != 0) {
      state_ = State::kSparseHeaders;
      return {};
    }
  } else if (pending_->map_in_data && entry_.type == EntryType::kFile) {
    state_ = State::kSparseMap;
    return {};
  }
  return BeginData();
}

Result<void> TarScanner::OnExtended(std::string_view data) {
  state_ = State::kHeader;
  switch (extended_type_) {
    case 'L':
      pending_->long_path = ToNul(data);
      break;
    case 'K':
      pending_->long_target = ToNul(data);
      break;
    default:
      return ParsePax(data);
  }
  return {};
}

// "<length> <key>=<value>\n", where length counts the whole record in decimal.
Result<void> TarScanner::ParsePax(std::string_view data) {
  // A second extended header takes the place of the first; GNU long names stand beside it.
  Pending fresh;
  fresh.long_path = std::move(pending_->long_path);
  fresh.long_target = std::move(pending_->long_target);
  fresh.any = true;
  *pending_ = std::move(fresh);
  while (!data.empty()) {
    if (data.front() == '\0') break;  // padding counted into the size by some writers
    size_t space = data.find(' ');
    auto length = space > 0 && space < 20 ? ParseDecimal(data.substr(0, space)) : std::nullopt;
    if (!length || *length > data.size() || *length < space + 3 || data[*length - 1] != '\n')
      return Bad("extended header: a record's length does not fit it");
    std::string_view record = data.substr(space + 1, *length - space - 2);
    data.remove_prefix(*length);
    size_t equals = record.find('=');
    if (equals == std::string_view::npos || equals == 0) return Bad("extended header: a record is not key=value");
    TRY(ParsePaxRecord(record.substr(0, equals), record.substr(equals + 1)));
  }
  if (pending_->sparse_offset) return Bad("GNU.sparse.offset without its GNU.sparse.numbytes");
  return {};
}

Result<void> TarScanner::ParsePaxRecord(std::string_view key, std::string_view value) {
  auto number = [&](std::optional<uint64_t>& into, uint64_t limit) -> Result<void> {
    if (value.empty()) {  // an empty value takes the record back
      into.reset();
      return {};
    }
    auto parsed = ParseDecimal(value);
    if (!parsed || *parsed > limit)
      return Bad("extended header: {} is {:?}, want a number up to {}", key, value.substr(0, 40), limit);
    into = *parsed;
    return {};
  };
  auto text = [&](std::optional<std::string>& into) -> Result<void> {
    if (value.find('\0') != std::string_view::npos) return Bad("extended header: {} has a NUL byte", key);
    if (value.empty())
      into.reset();
    else
      into = value;
    return {};
  };
  if (key == "path") return text(pending_->path);
  if (key == "linkpath") return text(pending_->target);
  if (key == "size") return number(pending_->size, kMaxSize);
  if (key == "uid") return number(pending_->uid, kNoId - 1);
  if (key == "gid") return number(pending_->gid, kNoId - 1);
  if (key == "mtime") {
    if (value.empty()) {
      pending_->mtime.reset();
      return {};
    }
    auto time = ParsePaxTime(value);
    if (!time) return Bad("extended header: mtime is {:?}, want seconds", value.substr(0, 40));
    pending_->mtime = *time;
    return {};
  }
  auto add_xattr = [&](Xattrs& into, std::string name, std::string_view bytes) -> Result<void> {
    if (name.empty() || name.size() > 255 || name.find('\0') != std::string::npos)
      return Bad("extended header: attribute name of {} bytes, want 1 to 255 without NUL", name.size());
    if (bytes.size() > limits_.xattr_value)
      return Bad("extended header: attribute {:?} has {} bytes, at most {} are possible", name, bytes.size(),
                 limits_.xattr_value);
    std::erase_if(into, [&](const auto& known) { return known.first == name; });
    into.emplace_back(std::move(name), bytes);
    return {};
  };
  constexpr std::string_view kSchily = "SCHILY.xattr.", kLibarchive = "LIBARCHIVE.xattr.", kAcl = "SCHILY.acl.";
  if (key.starts_with(kSchily)) return add_xattr(pending_->xattrs, std::string(key.substr(kSchily.size())), value);
  if (key.starts_with(kLibarchive)) {
    auto name = DecodePercent(key.substr(kLibarchive.size()));
    auto bytes = DecodeBase64(value);
    if (!name || !bytes) return Bad("extended header: {:?} is not base64 under an escaped name", key.substr(0, 100));
    return add_xattr(pending_->base64_xattrs, std::move(*name), *bytes);
  }
  if (key == "SCHILY.acl.access" || key == "SCHILY.acl.default") {
    if (value.empty()) return {};
    auto acl = EncodeAclText(value);
    if (!acl) return Bad("extended header: {} is not an access control list with numeric ids", key);
    return add_xattr(pending_->base64_xattrs, fmt::format("system.posix_acl_{}", key.substr(kAcl.size())), *acl);
  }
  if (!key.starts_with("GNU.sparse.")) return {};  // atime, ctime, uname, comment, ...: nothing a layer keeps
  std::string_view sparse = key.substr(11);
  if (sparse == "name") return text(pending_->sparse_name);
  if (sparse == "size" || sparse == "realsize") {
    pending_->is_sparse = true;
    return number(pending_->real_size, kMaxSize);
  }
  if (sparse == "major") {
    if (value == "1")
      pending_->map_in_data = pending_->is_sparse = true;
    else if (value != "0")
      return Bad("extended header: GNU.sparse.major {:?} is not known", value.substr(0, 40));
    return {};
  }
  if (sparse == "offset") return number(pending_->sparse_offset, kMaxSize);
  if (sparse == "numbytes") {
    std::optional<uint64_t> length;
    TRY(number(length, kMaxSize));
    if (!pending_->sparse_offset || !length) return Bad("GNU.sparse.numbytes without its GNU.sparse.offset");
    TRY(AddSparse(*std::exchange(pending_->sparse_offset, std::nullopt), *length));
    return {};
  }
  if (sparse == "map") {
    pending_->sparse.clear();
    while (!value.empty()) {
      std::optional<uint64_t> pair[2];
      for (auto& part : pair) {
        size_t comma = value.find(',');
        part = ParseDecimal(value.substr(0, comma));
        value = comma == std::string_view::npos ? std::string_view() : value.substr(comma + 1);
      }
      if (!pair[0] || !pair[1]) return Bad("extended header: GNU.sparse.map is not pairs of numbers");
      TRY(AddSparse(*pair[0], *pair[1]));
    }
  }
  return {};
}

Result<void> TarScanner::AddSparse(uint64_t offset, uint64_t length) {
  if (offset > kMaxSize || length > kMaxSize)
    return Bad("sparse map: {}+{} is larger than a file can be", offset, length);
  auto& map = pending_->sparse;
  if (!map.empty() && offset < map.back().first + map.back().second)
    return Bad("sparse map: data at {} overlaps what is before it", offset);
  TRY(Charge(sizeof(Extent)));
  map.emplace_back(offset, length);
  pending_->is_sparse = true;
  return {};
}

// One further block of an old GNU sparse map.
Result<void> TarScanner::OnSparseHeader(const char* block) {
  for (size_t i = 0; i < kSparseInExtension; ++i) {
    const char* pair = block + i * 24;
    if (*pair == 0) break;
    auto offset = ParseHeaderNumber({pair, 12}), length = ParseHeaderNumber({pair + 12, 12});
    if (!offset || !length || *offset < 0 || *length < 0) return Bad("sparse map entry is not a pair of numbers");
    TRY(AddSparse(static_cast<uint64_t>(*offset), static_cast<uint64_t>(*length)));
  }
  if (block[kExtensionMoreAt] != 0) return {};
  return BeginData();
}

// GNU sparse 1.0: decimal numbers with newlines, a count and then pairs, padded to a whole block, before the data.
Result<void> TarScanner::OnSparseMapBlock(const char* block) {
  if (stored_ < kBlock) return Bad("sparse map does not end within the data");
  stored_ -= kBlock;
  Pending& p = *pending_;
  for (size_t i = 0; i < kBlock; ++i) {
    if (p.map_count && *p.map_count == p.sparse.size()) return BeginData();  // the rest of the block is padding
    if (block[i] != '\n') {
      p.digits += block[i];
      if (p.digits.size() > 20) return Bad("sparse map: not a number");
      continue;
    }
    auto number = ParseDecimal(std::exchange(p.digits, {}));
    if (!number) return Bad("sparse map: not a number");
    if (!p.map_count)
      p.map_count = *number;
    else if (!p.map_offset)
      p.map_offset = *number;
    else
      TRY(AddSparse(*std::exchange(p.map_offset, std::nullopt), *number));
  }
  if (p.map_count && *p.map_count == p.sparse.size()) return BeginData();
  return {};
}

Result<void> TarScanner::ApplyPending(const char* block) {
  Pending& p = *pending_;
  std::string_view magic(block + kMagicAt, 8);
  if (magic.starts_with(std::string_view("ustar\0", 6))) {
    bool star = std::string_view(block + kStarMagicAt, 4) == std::string_view("tar\0", 4);
    std::string_view prefix = ToNul(Get(block, star ? kStarPrefix : kPrefix));
    if (!prefix.empty()) entry_.path = fmt::format("{}/{}", prefix, entry_.path);
  }
  entry_.target = ToNul(Get(block, kLink));
  if (p.long_path) entry_.path = std::move(*p.long_path);
  if (p.long_target) entry_.target = std::move(*p.long_target);
  if (p.path) entry_.path = std::move(*p.path);
  if (p.target) entry_.target = std::move(*p.target);
  if (p.is_sparse && p.sparse_name) entry_.path = std::move(*p.sparse_name);

  char type = block[kTypeAt];
  switch (type) {
    case '1':
      entry_.type = EntryType::kHardLink;
      break;
    case '2':
      entry_.type = EntryType::kSymlink;
      break;
    case '3':
      entry_.type = EntryType::kCharDevice;
      break;
    case '4':
      entry_.type = EntryType::kBlockDevice;
      break;
    case '5':
    case 'D':
      entry_.type = EntryType::kDirectory;
      break;
    case '6':
      entry_.type = EntryType::kFifo;
      break;
    case '\0':
      entry_.type = entry_.path.ends_with('/') ? EntryType::kDirectory : EntryType::kFile;
      break;
    default:
      entry_.type = EntryType::kFile;
      break;
  }
  if (entry_.path.empty()) return Bad("it has no name");
  if (entry_.path.size() > limits_.path)
    return Bad("its path has {} bytes, at most {} are possible", entry_.path.size(), limits_.path);
  bool link = entry_.type == EntryType::kSymlink || entry_.type == EntryType::kHardLink;
  if (!link) entry_.target.clear();
  if (link && entry_.target.empty()) return Bad("the link has no target");
  uint64_t target_limit = entry_.type == EntryType::kSymlink ? limits_.target : limits_.path;
  if (entry_.target.size() > target_limit)
    return Bad("its link target has {} bytes, at most {} are possible", entry_.target.size(), target_limit);

  auto mode = ParseHeaderNumber(Get(block, kMode));
  if (!mode) return Bad("mode field is not a number");
  entry_.mode = static_cast<uint32_t>(*mode) & 07777;
  auto id = [&](Field field, const std::optional<uint64_t>& pax, std::string_view name) -> Result<uint32_t> {
    if (pax) return static_cast<uint32_t>(*pax);
    auto value = ParseHeaderNumber(Get(block, field));
    if (!value || *value < 0 || *value >= kNoId) return Bad("{} field is not a number up to {}", name, kNoId - 1);
    return static_cast<uint32_t>(*value);
  };
  entry_.uid = TRY(id(kUid, p.uid, "uid"));
  entry_.gid = TRY(id(kGid, p.gid, "gid"));
  if (p.mtime) {
    entry_.mtime = *p.mtime;
  } else {
    auto mtime = ParseHeaderNumber(Get(block, kMtime));
    if (!mtime) return Bad("mtime field is not a number");
    entry_.mtime = {*mtime, 0};
  }
  if (entry_.type == EntryType::kCharDevice || entry_.type == EntryType::kBlockDevice) {
    auto major = ParseHeaderNumber(Get(block, kMajor)), minor = ParseHeaderNumber(Get(block, kMinor));
    // Linux keeps 12 bits of major and 20 bits of minor.
    if (!major || *major < 0 || *major >= 1 << 12) return Bad("device major is not a number below 4096");
    if (!minor || *minor < 0 || *minor >= 1 << 20) return Bad("device minor is not a number below 1048576");
    entry_.major = static_cast<uint32_t>(*major);
    entry_.minor = static_cast<uint32_t>(*minor);
  }
  if (p.size && HasData(type)) stored_ = *p.size;
  entry_.xattrs = std::move(p.xattrs);
  for (auto& extra : p.base64_xattrs) {
    bool known = std::ranges::any_of(entry_.xattrs, [&](const auto& x) { return x.first == extra.first; });
    if (!known) entry_.xattrs.push_back(std::move(extra));
  }
  uint64_t bytes = entry_.path.size() + entry_.target.size() + 64;
  for (const auto& [name, value] : entry_.xattrs) bytes += name.size() + value.size();
  return Charge(bytes);
}

// The stream stands at the first data byte.
Result<void> TarScanner::BeginData() {
  bool file = entry_.type == EntryType::kFile;
  if (file && pending_->is_sparse) {
    entry_.size = pending_->real_size.value_or(0);
    uint64_t at = offset_, sum = 0;
    for (auto [offset, length] : pending_->sparse) {
      if (offset + length > entry_.size)
        return Bad("sparse map: data at {}+{} lies beyond the size {}", offset, length, entry_.size);
      if (length > 0) entry_.extents.push_back({offset, length, at});
      at += length;
      sum += length;
    }
    if (sum != stored_) return Bad("sparse map names {} bytes, the archive holds {}", sum, stored_);
  } else if (file) {
    entry_.size = stored_;
    if (stored_ > 0) entry_.extents.push_back({0, stored_, offset_});
  }
  skip_ = Padded(stored_);
  state_ = skip_ > 0 ? State::kSkip : State::kHeader;
  if (entries_ >= limits_.entries) return Bad("the archive has more than {} entries", limits_.entries);
  *pending_ = Pending();
  std::string path = skip_ > 0 ? entry_.path : std::string();  // for the error of an archive that ends in the data
  entry_.number = entries_ + 1;
  TRY(sink_(std::move(entry_)));
  ++entries_;
  entry_ = TarEntry();
  entry_.path = std::move(path);
  return {};
}

void TarScanner::Skip(uint64_t bytes) {
  bytes = std::min(bytes, skippable());
  offset_ += bytes;
  skip_ -= bytes;
  if (state_ == State::kSkip && skip_ == 0) state_ = State::kHeader;
}

Result<std::vector<TarEntry>> ScanTarFile(int fd, uint64_t size, TarLimits limits) {
  constexpr uint64_t kWindow = 32 << 10;
  std::vector<TarEntry> entries;
  TarScanner scanner(
      [&](TarEntry&& entry) -> Result<void> {
        entries.push_back(std::move(entry));
        return {};
      },
      limits);
  std::string buffer(kWindow, '\0');
  while (scanner.offset() < size) {
    scanner.Skip(std::min(scanner.skippable(), size - scanner.offset()));
    uint64_t at = scanner.offset();
    ssize_t n = pread(fd, buffer.data(), std::min(kWindow, size - at), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SysErr("read the tar at byte {}", at);
    if (n == 0) break;
    std::string_view window(buffer.data(), static_cast<size_t>(n));
    while (!window.empty()) {  // headers one by one, so that what is skipped costs nothing
      uint64_t skip = std::min<uint64_t>(scanner.skippable(), window.size());
      scanner.Skip(skip);
      window.remove_prefix(skip);
      std::string_view block = window.substr(0, kBlock);
      window.remove_prefix(block.size());
      TRY(scanner.Feed(block));
      if (scanner.skippable() > window.size()) break;
    }
  }
  TRY(scanner.Finish());
  return entries;
}

}  // namespace berth::images
