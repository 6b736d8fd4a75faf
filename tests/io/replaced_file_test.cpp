// What is replaced when a file is written: what a path means, and who may read it, is the user's choice.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <core/expect_error.hpp>
#include <cstdio>
#include <remat/io/jsonl.hpp>
#include <remat/io/safetensors.hpp>
#include <remat/io/trace.hpp>
#include <thread>

#include "io/weight_file.hpp"

// What the library asks of the system, noted while somebody wants to know.
struct SystemCalls {
  static inline std::string* noted = nullptr;
  static inline mode_t mode_before_it_is_given = 0;
  static inline bool links_are_lost = false;
};
extern "C" ssize_t readlink(const char* path, char* to, size_t size) noexcept {
  if (!SystemCalls::links_are_lost) return ::syscall(SYS_readlinkat, AT_FDCWD, path, to, size);
  errno = ENOENT;
  return -1;
}
extern "C" int fchown(int descriptor, uid_t user, gid_t group) noexcept {
  struct stat status {};
  if (::fstat(descriptor, &status) == 0) SystemCalls::mode_before_it_is_given = status.st_mode & 07777;
  return static_cast<int>(::syscall(SYS_fchown, descriptor, user, group));
}
extern "C" int fsync(int descriptor) {
  struct stat status {};
  if (SystemCalls::noted != nullptr && ::fstat(descriptor, &status) == 0)
    *SystemCalls::noted += S_ISDIR(status.st_mode) ? "flush folder, " : "flush file, ";
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}
extern "C" int rename(const char* from, const char* to) noexcept {
  if (SystemCalls::noted != nullptr) *SystemCalls::noted += "rename, ";
  return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

namespace {

using namespace remat;
using remat_test::expect_error;
namespace fs = std::filesystem;

class ReplacedFile : public remat_test::WeightFile {
 protected:
  ReplacedFile() : folder(fs::path(path).parent_path()) {}
  static void replace(const std::string& at, std::string_view text) {
    io::ReplacedFile file(at);
    file.file().write(text);
    file.commit();
  }
  static std::string text_of(const fs::path& at) {
    std::ifstream file(at, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static mode_t mode_of(const fs::path& at) {
    struct stat status {};
    EXPECT_EQ(::lstat(at.c_str(), &status), 0);
    return status.st_mode & 07777;
  }
  std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(folder), {}); }

  fs::path folder;
};

// Protects against power failures: the new name must not come to the disk before the bytes, and must come there.
TEST_F(ReplacedFile, IsOnTheDiskBeforeItHasItsName) {
  set_bytes("old");
  std::string calls;
  SystemCalls::noted = &calls;
  replace(path, "new");
  SystemCalls::noted = nullptr;
  EXPECT_EQ(calls, "flush file, rename, flush folder, ");
  EXPECT_EQ(bytes(), "new");
}

// Protects links: the file at their end is replaced, in its own folder, whether it is there yet or not.
TEST_F(ReplacedFile, FollowsLinks) {
  const fs::path away = folder / "away", link = folder / "link", chain = away / "chain", dangling = folder / "dangling";
  fs::create_directory(away);
  set_bytes("old");
  fs::create_symlink("../model.safetensors", chain);
  fs::create_symlink(fs::absolute(chain), link);
  replace(link, "new");
  EXPECT_TRUE(fs::is_symlink(link) && fs::is_symlink(chain));
  EXPECT_EQ(bytes(), "new");
  fs::create_symlink("away/later", dangling);
  replace(dangling, "made");
  EXPECT_TRUE(fs::is_symlink(dangling));
  EXPECT_EQ(text_of(away / "later"), "made");
  fs::create_symlink("circle", folder / "circle");
  expect_error({(folder / "circle").string(), "links"}, [&] { replace(folder / "circle", ""); });
  fs::create_symlink("no/such/x", folder / "lost");
  expect_error({(folder / "no/such/x").string(), "No such file"}, [&] { replace(folder / "lost", ""); });
  SystemCalls::links_are_lost = true;  // by another program, when it was found and not yet read
  expect_error({link.string(), "cannot be followed to its end"}, [&] { replace(link, "lost"); });
  SystemCalls::links_are_lost = false;
  EXPECT_EQ(bytes(), "new");
  EXPECT_EQ(files(), 6);  // and no temporary one
}

// Protects secrets: a file that others cannot read stays one, and so does the new one from its first moment on.
TEST_F(ReplacedFile, KeepsPermissions) {
  const mode_t old_mask = ::umask(022);
  for (const mode_t mode : {0600, 0640, 0444, 0666}) {
    set_bytes("old");
    ASSERT_EQ(::chmod(path.c_str(), mode), 0);
    {
      io::ReplacedFile file(path);
      EXPECT_EQ(SystemCalls::mode_before_it_is_given, mode & 0600) << std::oct << mode;
      EXPECT_EQ(mode_of(file.file().path()) & ~mode, 0U) << std::oct << mode;
      file.file().write("new");
      file.commit();
    }
    EXPECT_EQ(mode_of(path), mode);
    EXPECT_EQ(bytes(), "new");
    fs::remove(path);
  }
  replace(path, "new");
  EXPECT_EQ(mode_of(path), 0644U);  // of no older file: the umask decides
  ::umask(old_mask);
}

// Protects a file's owner, where the system permits to give one away.
TEST_F(ReplacedFile, KeepsTheOwner) {
  set_bytes("old");
  if (::chown(path.c_str(), 12345, 23456) != 0) GTEST_SKIP() << "only root gives files away";
  replace(path, "new");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 12345U);
  EXPECT_EQ(status.st_gid, 23456U);
}

// Protects pipes and devices: they take the bytes, and are there afterwards; folders are refused.
TEST_F(ReplacedFile, WritesStraightIntoWhatIsNoFile) {
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  fs::create_symlink("model.safetensors", folder / "link");
  for (const fs::path& at : {fs::path(path), folder / "link"}) {
    std::string read;
    std::thread reader([&] { read = text_of(path); });
    replace(at, "through");
    reader.join();
    EXPECT_EQ(read, "through");
  }
  EXPECT_TRUE(fs::is_fifo(path));
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  // A link in /proc leads to a pipe without a path.
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  replace("/proc/self/fd/" + std::to_string(ends[1]), "nameless");
  char got[8];
  EXPECT_EQ(::read(ends[0], got, 8), 8);
  EXPECT_EQ(std::string(got, 8), "nameless");
  ::close(ends[0]), ::close(ends[1]);
  expect_error({folder.string(), "is a folder"}, [&] { io::ReplacedFile{folder}; });
  EXPECT_EQ(files(), 2);
}

// Protects two writers of one file from each other: each has a temporary file of its own, and both go.
TEST_F(ReplacedFile, WritersDoNotMeet) {
  set_bytes("old");
  {
    io::ReplacedFile one(path), two(path);
    one.file().write("one");
    two.file().write("second");
    EXPECT_EQ(files(), 3);
    one.commit();
    EXPECT_EQ(bytes(), "one");
  }
  EXPECT_EQ(bytes(), "one");
  EXPECT_EQ(files(), 1);
}

// Protects the reason of a failure: it is that of the step that failed, and nothing is left beside.
TEST_F(ReplacedFile, SaysWhyItCannotReplace) {
  io::ReplacedFile file(path);
  file.file().write("new");
  fs::create_directory(path);  // in the meantime
  errno = 0;
  expect_error({path, "cannot be replaced", "Is a directory"}, [&] { file.commit(); });
}

// Protects every writer: weights, traces and logs go through links, and logs refuse what they cannot append to.
TEST_F(ReplacedFile, IsUsedByAllWriters) {
  const std::string link = folder / "link";
  fs::create_symlink("model.safetensors", link);
  io::save_safetensors(ParameterRegistry(), link);
  EXPECT_EQ(bytes(), with_length("{}      "));
  io::save_trace({}, link);
  EXPECT_EQ(bytes().front(), '{');
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  io::JsonLines::from_empty(link).write({{"step", 1}});
  io::JsonLines(link).write({{"step", 2}});
  EXPECT_EQ(bytes(), "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(mode_of(path), 0600U);
  EXPECT_TRUE(fs::is_symlink(link));
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error({"pipe", "not a regular file"}, [&] { io::JsonLines(folder / "pipe"); });
  expect_error({folder.string(), "directory"}, [&] { io::JsonLines{folder}; });
}

}  // namespace
