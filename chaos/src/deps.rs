//! What the platform stands on goes away for a while and comes back: Redis, the model, the
//! remote, the disk, Postgres. What was accepted is answered afterwards, or buried with word of
//! it; what could not be accepted was never acknowledged.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use qudao_testkit::{TestRedis, TestTenant};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time};

use crate::{
    platform::{Sent, Visitor},
    stage::Stage,
    storm,
    verdict::{self, Bounds, Line, Verdict},
};

/// How long a dependency is away.
const AWAY: Duration = Duration::from_secs(4);
const DRAIN: Duration = Duration::from_secs(60);

/// Takes every dependency away, one run each. `say` hears how each went.
///
/// # Errors
/// If a run could not be made.
pub async fn run(say: impl Fn(&str)) -> anyhow::Result<Verdict> {
    let mut total = Verdict::default();
    for dependency in [
        Dependency::Redis,
        Dependency::Model,
        Dependency::Remote,
        Dependency::Disk,
        Dependency::Postgres,
    ] {
        let Some(verdict) = dependency.take_away().await? else {
            say(&format!("{dependency:<10?} NOT CHECKED: a small disk takes the right to mount"));
            continue;
        };
        let violated = verdict.violated();
        let held = if violated.is_empty() { "all hold".to_owned() } else { violated.join(" ") };
        say(&format!("{dependency:<10?} {held}"));
        total.merge(verdict);
    }
    Ok(total)
}

#[derive(Debug, Clone, Copy)]
enum Dependency {
    Redis,
    Model,
    Remote,
    Disk,
    Postgres,
}

impl Dependency {
    async fn take_away(self) -> anyhow::Result<Option<Verdict>> {
        let mut stage = Stage::set(false).await?;
        let redis = TestRedis::new().await;
        redis.url().clone_into(&mut stage.plan.redis_url);
        let disk = match self {
            Self::Disk => match SmallDisk::mount(&stage)? {
                Some(disk) => Some(disk),
                None => return Ok(None),
            },
            _ => None,
        };
        let model = if matches!(self, Self::Model) { "broken" } else { "fake" };
        let tenant = stage.tenant(100_000_000, &[model]).await;
        let nodes = [stage.node().await?, stage.node().await?];
        let mut writers = JoinSet::new();
        let until = Instant::now() + AWAY + Duration::from_secs(2);
        for seed in 0..3 {
            let (platform, tenant) = (stage.platform.clone(), tenant.clone());
            let own = StdRng::seed_from_u64(seed);
            writers.spawn(storm::write(platform, tenant, own, until));
        }
        time::sleep(Duration::from_secs(1)).await;
        let refused = match self {
            Self::Redis => {
                redis.stop().await;
                0
            }
            Self::Model => 0,
            Self::Remote => {
                stage.remote.set_away(true);
                time::sleep(AWAY).await;
                stage.remote.set_away(false);
                0
            }
            Self::Postgres => {
                let since = Instant::now();
                ensure!(storm::stop_postgres(&stage)?, "the check needs a Postgres of its own");
                storm::await_postgres(&stage).await?;
                stage.record.outage_since(since);
                0
            }
            Self::Disk => fill(&stage, &tenant, disk.as_ref()).await?,
        };
        while let Some(sent) = writers.join_next().await {
            sent??;
        }
        stage.drain(DRAIN).await?;
        let bounds = Bounds { answer: Duration::from_secs(45), redundant: 16 };
        let mut verdict = verdict::judge(&stage, bounds).await?;
        verdict.lines.extend(self.own_line(&stage, refused)?);
        drop(nodes);
        Ok(Some(verdict))
    }

    /// What has to hold for this dependency alone.
    fn own_line(self, stage: &Stage, refused: usize) -> anyhow::Result<Option<Line>> {
        let (id, title, examined, violations) = match self {
            Self::Disk => {
                let title = "a full disk refuses messages instead of losing them";
                ("P3", title, refused, usize::from(refused == 0))
            }
            Self::Model => {
                let count =
                    |table: &str| stage.sql(&format!("SELECT count(*) FROM {table}")).parse();
                let title = "nobody pays for a model that does not answer";
                ("P4", title, count("holds")?, count("usage_events")?)
            }
            Self::Redis | Self::Remote | Self::Postgres => return Ok(None),
        };
        Ok(Some(Line { id, title: title.to_owned(), examined, violations, sample: None }))
    }
}

/// Leaves no room on the disk while long messages come, and makes room again. How many of them
/// were refused.
async fn fill(
    stage: &Stage,
    tenant: &TestTenant,
    disk: Option<&SmallDisk>,
) -> anyhow::Result<usize> {
    let disk = disk.context("a small disk")?;
    disk.fill()?;
    let since = Instant::now();
    let mut random = StdRng::seed_from_u64(1);
    let mut refused = 0;
    while since.elapsed() < AWAY {
        let visitor = Visitor::of(tenant);
        // Does not compress, so every message needs a new page soon.
        let text: String = (0..6000).map(|_| random.random_range('!'..'~')).collect();
        let id = format!("long{:x}", random.random::<u64>());
        let sent = stage.platform.deliver(&visitor, &id, &text, Duration::from_millis(200)).await?;
        refused += usize::from(sent == Sent::Unheard);
    }
    disk.make_room()?;
    stage.record.outage_since(since);
    Ok(refused)
}

/// A file system of a few megabytes that holds all tables of the run.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// `None` without the right to mount.
    fn mount(stage: &Stage) -> anyhow::Result<Option<Self>> {
        let data = PathBuf::from(stage.sql("SHOW data_directory"));
        let owner = fs::metadata(&data)?;
        let folder = data.with_file_name("small-disk");
        fs::create_dir_all(&folder)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(&folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            return Ok(None);
        }
        let disk = Self { folder };
        let tables = disk.folder.join("tables");
        fs::create_dir(&tables)?;
        for path in [&disk.folder, &tables] {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
        let place = tables.display();
        stage.sql(&format!("CREATE TABLESPACE small LOCATION '{place}'"));
        for what in ["TABLE", "INDEX"] {
            stage.sql(&format!("ALTER {what} ALL IN TABLESPACE pg_default SET TABLESPACE small"));
        }
        Ok(Some(disk))
    }

    fn filler(&self) -> PathBuf {
        Path::new(&self.folder).join("filler")
    }

    fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.filler())?;
        for block in [vec![1_u8; 64 << 10], vec![1_u8; 4 << 10]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    fn make_room(&self) -> anyhow::Result<()> {
        fs::remove_file(self.filler()).context("making room")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
    }
}
