//! This process's memory: how many bytes it may still take, and that it gives back what it freed. It may take what the machine has left, or what its
//! control groups leave it, whichever is less.
//!
//! Refuses to know what they are for. The surprise: in a container `/proc/meminfo` is the machine's, and the container's limit stands in a group
//! of version 1 or 2. Where the group's path is that of the machine, the container sees its own group as the root, so all groups above count too, and
//! those that are not there count nothing. Pages of files, as those of mapped weights, are room: the system drops them, and `MemAvailable` has them too.

use std::path::Path;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::time::Duration;

/// What a version of control groups calls things.
struct Version {
    /// Where its groups are.
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Fields of `memory.stat` for pages of files.
    files: [&'static str; 2],
}

const V1: Version = Version {
    root: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: ["total_inactive_file ", "total_active_file "],
};
const V2: Version = Version {
    root: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    files: ["inactive_file ", "active_file "],
};

/// Bytes that can be allocated without swapping or being ended for it, where the system says so.
pub fn available() -> Option<u64> {
    available_in(Path::new("/"))
}

fn available_in(root: &Path) -> Option<u64> {
    field_kib(root.join("proc/meminfo"), "MemAvailable:").into_iter().chain(left_by_groups(root)).min()
}

/// What each group that has a limit leaves this process.
fn left_by_groups(root: &Path) -> Vec<u64> {
    let list = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut left = Vec::new();
    for line in list.lines() {
        // A number, the controllers of version 1 or none, and the path.
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let version = match controllers {
            "" => V2,
            list if list.split(',').any(|name| name == "memory") => V1,
            _ => continue,
        };
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        left.extend(groups.filter_map(|group| left_by(&root.join(version.root).join(group), &version)));
    }
    left
}

/// None for a group that is not there, or has no limit.
fn left_by(group: &Path, version: &Version) -> Option<u64> {
    let limit = field(group.join(version.limit), "")?;
    let used = field(group.join(version.used), "").unwrap_or(0);
    let files: u64 = version.files.iter().filter_map(|name| field(group.join("memory.stat"), name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

/// A trim takes some milliseconds, in which a thread that allocates may wait.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Lets memory that was freed go back to the system: large pieces at once, all the rest every few seconds. glibc by itself keeps what is smaller than a
/// limit that it raises to 32 MiB, and in each of its arenas, one for every few threads, the most that was ever in use there: hundreds of MB once many
/// pictures were decoded. For before there are other threads.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it sets a number of the allocator.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
        let work = || loop {
            std::thread::sleep(TRIM_EVERY);
            // SAFETY: it needs nothing, from any thread.
            unsafe { libc::malloc_trim(0) };
        };
        // Without it the process only keeps more.
        drop(std::thread::Builder::new().name("trim".into()).spawn(work));
    }
}

/// A field of a file in `/proc` that counts KiB, in bytes.
pub fn field_kib(file: impl AsRef<Path>, name: &str) -> Option<u64> {
    field(file, name)?.checked_mul(1024)
}

/// The number behind `name` at the begin of a line.
fn field(file: impl AsRef<Path>, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What is available on a machine with these files and 1 GiB of memory.
    fn available_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        let machine = ("proc/meminfo", "MemTotal:  2097152 kB\nMemAvailable:    1048576 kB\n");
        for (path, text) in [machine].iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        available_in(root.path())
    }

    #[test]
    fn without_groups_it_is_the_machine_s() {
        assert_eq!(available_with(&[]), Some(1024 * MIB));
        assert_eq!(available_with(&[("proc/self/cgroup", "0::/user.slice\n")]), Some(1024 * MIB));
        assert_eq!(available_with(&[("proc/meminfo", "nothing")]), None);
        assert!(available().is_some_and(|bytes| bytes > 0), "this machine");
    }

    #[test]
    fn the_smallest_limit_of_version_2_counts() {
        let path = ("proc/self/cgroup", "0::/a.slice/b.service\n");
        let cases = [
            ("max", "max", "max", 1024),
            ("500", "max", "max", 500),
            ("max", "500", "max", 500),
            ("max", "400", "500", 400),
            ("300", "400", "500", 300),
            ("4000", "max", "2000", 1024),
        ];
        let mib = |text: &str| text.parse().map_or(text.into(), |n: u64| format!("{}\n", n * MIB));
        for (own, above, root, want) in cases {
            let groups = [
                ("sys/fs/cgroup/a.slice/b.service/memory.max", &mib(own)[..]),
                ("sys/fs/cgroup/a.slice/memory.max", &mib(above)),
                ("sys/fs/cgroup/memory.max", &mib(root)),
                // A neighbour's.
                ("sys/fs/cgroup/b.service/memory.max", "1"),
            ];
            assert_eq!(available_with(&[&[path][..], &groups].concat()), Some(want * MIB), "{own} {above} {root}");
        }
    }

    /// As in a container, which has no folder of that name.
    #[test]
    fn a_container_s_limit_of_version_1_counts() {
        let lists = ["5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/docker/1\n", "4:hugetlb,memory:/\n"];
        for list in lists {
            let files = [("proc/self/cgroup", list), ("sys/fs/cgroup/memory/memory.limit_in_bytes", "104857600\n")];
            assert_eq!(available_with(&files), Some(100 * MIB));
        }
        let unlimited = [
            ("proc/self/cgroup", lists[0]),
            ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(available_with(&unlimited), Some(1024 * MIB));
    }

    #[test]
    fn what_a_group_uses_is_gone_but_for_pages_of_files() {
        let limit = |text| ("sys/fs/cgroup/memory.max", text);
        let used = ("sys/fs/cgroup/memory.current", "73400320\n");
        let files = ("sys/fs/cgroup/memory.stat", "anon 5\nfile 9\ninactive_file 10485760\nactive_file 10485760\n");
        let path = ("proc/self/cgroup", "0::/\n");
        assert_eq!(available_with(&[path, limit("104857600"), used]), Some(30 * MIB));
        assert_eq!(available_with(&[path, limit("104857600"), used, files]), Some(50 * MIB));
        assert_eq!(available_with(&[path, limit("1000"), used, files]), Some(0));
        let files = [
            ("proc/self/cgroup", "4:memory:/x\n"),
            ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "104857600\n"),
            ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "73400320\n"),
            (
                "sys/fs/cgroup/memory/x/memory.stat",
                "inactive_file 1\ntotal_inactive_file 20971515\ntotal_active_file 5\n",
            ),
        ];
        assert_eq!(available_with(&files), Some(50 * MIB));
    }
}
