//! The processes of a measurement: started, asked for what they have used, and ended.
//!
//! Always true: a process is dead when its [`Process`] is dropped; whatever it wrote to standard error is in its file.

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rand::RngExt;
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

/// How long a process may take until it answers.
const PATIENCE: Duration = Duration::from_mins(2);

/// The kernel counts processor time for others in hundredths of a second, on every machine that Rust runs on.
const TICK_US: f64 = 10_000.0;

/// Raises the limit of open files, the same for all: 512 clients need thousands.
const LAUNCH: &str = r#"ulimit -n "$(ulimit -H -n)"; exec "$0" "$@""#;

/// A process that serves.
pub struct Process {
    name: String,
    pid: u32,
    child: Child,
    errors: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
}

fn command(args: &[String], errors: &Path) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program can't be found again: {error}"))?;
    let file = File::options().create(true).append(true).open(errors);
    let file = file.map_err(|error| format!("{} can't be written: {error}", errors.display()))?;
    let mut command = Command::new("sh");
    command.args(["-c", LAUNCH]).arg(program).args(args);
    command.stdin(Stdio::null()).stderr(file).kill_on_drop(true);
    // What is set for a coordinator of the user's own isn't meant for this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UNANIMOUS_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs a part to its end; what it printed is what came of it.
pub async fn run<T: DeserializeOwned>(name: &str, args: &[String], errors: &Path) -> Result<T, String> {
    let ended = command(args, errors)?.stdout(Stdio::piped()).output().await;
    let ended = ended.map_err(|error| format!("the {name} can't be started: {error}"))?;
    let parsed = serde_json::from_slice(&ended.stdout).ok().filter(|_| ended.status.success());
    parsed.ok_or_else(|| format!("the {name} has failed ({}): {}", ended.status, last_line(errors)))
}

fn last_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().last().unwrap_or("it has said nothing").to_owned()
}

impl Process {
    /// Starts a process that is given this address, and returns when it listens there.
    pub async fn start(name: &str, args: &[String], address: SocketAddr, errors: &Path) -> Result<Self, String> {
        let child = command(args, errors)?.stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("the {name} can't be started: {error}"))?;
        let pid = child.id().ok_or_else(|| format!("the {name} has ended at once"))?;
        let mut process = Self { name: name.to_owned(), pid, child, errors: errors.to_owned(), address };
        process.until(async || get(address, "/readyz").await.is_ok()).await?;
        Ok(process)
    }

    /// Returns when this is so.
    pub async fn until(&mut self, so: impl AsyncFn() -> bool) -> Result<(), String> {
        let began = Instant::now();
        while !so().await {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the {} has ended ({status}): {}", self.name, last_line(&self.errors)));
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the {} isn't as far as it should be after {PATIENCE:?}", self.name));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// `kill -9`. Returns when it is gone.
    pub async fn kill(mut self) {
        let _ = self.child.kill().await;
    }

    /// The processor time it has used, in microseconds.
    pub fn cpu_us(&self) -> Result<f64, String> {
        cpu_us(&self.pid.to_string())
    }

    /// A line of its `/proc/PID/status`, which is in KiB, in bytes.
    fn memory(&self, key: &str) -> Result<f64, String> {
        let text = proc(&self.pid.to_string(), "status")?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.ok_or_else(|| format!("/proc/{}/status has no {key}", self.pid))? * 1024.0)
    }

    /// The memory it has now, in bytes.
    pub fn resident(&self) -> Result<f64, String> {
        self.memory("VmRSS")
    }

    /// The most memory it had, in bytes.
    pub fn peak(&self) -> Result<f64, String> {
        self.memory("VmHWM")
    }
}

fn proc(pid: &str, file: &str) -> Result<String, String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("/proc/{pid}/{file} isn't there: the process has ended, or this isn't Linux"),
        _ => format!("/proc/{pid}/{file} can't be read: {error}"),
    })
}

/// The processor time a process has used, in microseconds; `self` is this one.
pub fn cpu_us(pid: &str) -> Result<f64, String> {
    let stat = proc(pid, "stat")?;
    ticks(&stat).map(|ticks| ticks * TICK_US).ok_or_else(|| format!("/proc/{pid}/stat isn't as expected: {stat}"))
}

/// User and system time. The second field is the program's name, which may hold anything.
pub fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
}

/// The body of a 200.
pub async fn get(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = reqwest::get(format!("http://{address}{path}")).await.and_then(reqwest::Response::error_for_status);
    let text = match answer {
        Ok(answer) => answer.text().await,
        Err(error) => Err(error),
    };
    text.map_err(|error| format!("{path} of {address} can't be read: {error}"))
}

/// A free address. Below the ports that systems hand out to outgoing connections: one of those could be taken again
/// before its process listens.
pub fn free_address() -> Result<SocketAddr, String> {
    let mut rng = rand::rng();
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rng.random_range(20_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("there is no free port between 20000 and 30000 on 127.0.0.1".to_owned())
}
