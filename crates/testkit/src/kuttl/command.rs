//! Commands and scripts: "Running Commands" in upstream's docs/testing/steps.md, and its internal/utils/commands.go.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};

use super::config::Command;

/// What commands find around them.
#[derive(Clone, Debug)]
pub struct Shell {
    /// The environment of the runner, with `PATH` and `KUBECONFIG` as commands have them.
    environment: BTreeMap<String, String>,
}

/// Why a command did not do what it was to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CommandError {
    /// It took too long: nothing is tried again.
    #[error("command {0:?} exceeded {1} sec timeout")]
    Timeout(String, u64),
    /// Anything else.
    #[error("command {0:?} {1}")]
    Failed(String, String),
}

impl Shell {
    /// The runner's own environment, in which `bin` below `folder` comes first in `PATH` and `KUBECONFIG` names this file.
    pub fn new(folder: &Path, kubeconfig: &Path) -> Self {
        let mut environment: BTreeMap<String, String> = std::env::vars().collect();
        let path = environment.get("PATH").cloned().unwrap_or_default();
        environment.insert("PATH".to_owned(), format!("{}/bin/:{path}", folder.display()));
        environment.insert("KUBECONFIG".to_owned(), kubeconfig.display().to_string());
        Self { environment }
    }

    /// With the namespace of a case.
    pub(super) fn of(&self, namespace: &str) -> Self {
        let mut environment = self.environment.clone();
        environment.insert("NAMESPACE".to_owned(), namespace.to_owned());
        Self { environment }
    }

    /// `$NAME` and `${NAME}` in a text; `$$` is one dollar, an unknown name nothing (`os.Expand` of Go).
    pub(super) fn expand(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (name, behind) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some(parts) => parts,
                None if after.starts_with('$') => after.split_at(1),
                None => {
                    after.split_at(after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len()))
                }
            };
            out.push_str(if name == "$" { "$" } else { self.environment.get(name).map_or("", String::as_str) });
            rest = behind;
        }
        out.push_str(rest);
        out
    }

    /// The words of a command as they are executed.
    fn words(&self, command: &Command) -> Result<Vec<String>, String> {
        match (command.command.as_str(), command.script.as_str()) {
            ("", "") => return Err("command or script must be set".to_owned()),
            ("", _) if command.namespaced => {
                return Err("a script can't be namespaced: it has $NAMESPACE".to_owned());
            }
            ("", script) => return Ok(["sh", "-c", script].map(str::to_owned).to_vec()),
            (_, "") => {}
            _ => return Err("command and script can't both be set".to_owned()),
        }
        let line = self.expand(&command.command);
        let mut words = shlex::split(&line).ok_or("has a quote that does not end")?;
        if words.is_empty() {
            return Err("has no words".to_owned());
        }
        let named =
            words.iter().any(|w| w == "-n" || w == "--namespace" || w.starts_with("--namespace=") || is_short(w));
        if command.namespaced && !named {
            let namespace = self.environment.get("NAMESPACE").cloned().unwrap_or_default();
            words.extend(["--namespace".to_owned(), namespace]);
        }
        Ok(words)
    }

    /// Runs a command in a folder, for `timeout` seconds at most unless it names its own; 0 is for ever. What it prints
    /// is returned.
    pub(super) async fn run(&self, command: &Command, folder: &Path, timeout: i64) -> Result<String, CommandError> {
        let name = if command.command.is_empty() { &command.script } else { &command.command };
        let failed = |why: String| CommandError::Failed(name.clone(), why);
        let words = self.words(command).map_err(failed)?;
        let (program, arguments) = words.split_first().ok_or_else(|| failed("has no words".to_owned()))?;
        let seconds = match command.timeout {
            0 => u64::try_from(timeout).unwrap_or(0),
            own => u64::try_from(own).unwrap_or(0),
        };
        let child = tokio::process::Command::new(self.find(program))
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // so that a script ends with what it has started
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(format!("cannot be started: {e}")))?;
        let group = child.id();
        let finished = child.wait_with_output();
        let done = if seconds == 0 {
            Ok(finished.await)
        } else {
            tokio::time::timeout(Duration::from_secs(seconds), finished).await
        };
        let Ok(done) = done else {
            if let Some(group) = group.and_then(|id| i32::try_from(id).ok()) {
                let _ = signal::killpg(Pid::from_raw(group), signal::Signal::SIGKILL);
            }
            return Err(CommandError::Timeout(name.clone(), seconds));
        };
        let done = done.map_err(|e| failed(format!("cannot be waited for: {e}")))?;
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        let said = if command.skip_log_output { String::new() } else { said.trim_end().to_owned() };
        if done.status.success() || command.ignore_failure {
            Ok(said)
        } else {
            Err(failed(format!("failed, {}: {said}", done.status)))
        }
    }

    /// A program by the search path that commands have, which may not be this process's.
    fn find(&self, program: &str) -> PathBuf {
        let path = self.environment.get("PATH").map_or("", String::as_str);
        let found = path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file());
        found.filter(|_| !program.contains('/')).unwrap_or_else(|| PathBuf::from(program))
    }
}

/// `-nlab`: the short option with its value.
fn is_short(word: &str) -> bool {
    word.starts_with("-n") && !word.starts_with("--")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell() -> Shell {
        Shell::new(Path::new("/suite"), Path::new("/suite/kubeconfig")).of("lab")
    }

    fn command(line: &str) -> Command {
        Command { command: line.to_owned(), ..Command::default() }
    }

    fn script(text: &str) -> Command {
        Command { script: text.to_owned(), ..Command::default() }
    }

    async fn run(command: &Command) -> Result<String, String> {
        shell().run(command, Path::new("/tmp"), 30).await.map_err(|e| e.to_string())
    }

    #[test]
    fn variables_are_expanded_in_commands() {
        let shell = shell();
        for (text, wanted) in [
            ("get pods -n $NAMESPACE", "get pods -n lab"),
            ("a${NAMESPACE}b", "alabb"),
            ("$$NAMESPACE $KUBECONFIG", "$NAMESPACE /suite/kubeconfig"),
            ("x$NO_SUCH_NAME_HERE-", "x-"),
            ("no dollar", "no dollar"),
        ] {
            assert_eq!(shell.expand(text), wanted);
        }
        assert!(shell.expand("$PATH").starts_with("/suite/bin/:"));
    }

    #[test]
    fn a_command_is_words_and_a_script_is_for_the_shell() {
        let words = |command: &Command| shell().words(command);
        assert_eq!(words(&command("kubectl 'a b' \"c d\"")).unwrap(), ["kubectl", "a b", "c d"]);
        assert_eq!(words(&script("a | b $NAMESPACE")).unwrap(), ["sh", "-c", "a | b $NAMESPACE"]);
        assert!(words(&command("a 'b")).unwrap_err().contains("quote"));
        assert!(words(&Command::default()).unwrap_err().contains("must be set"));
        let both = Command { script: "a".to_owned(), ..command("b") };
        assert!(words(&both).unwrap_err().contains("both"));
        let namespaced = Command { namespaced: true, ..script("a") };
        assert!(words(&namespaced).unwrap_err().contains("namespaced"));
    }

    #[test]
    fn a_namespaced_command_gets_the_namespace_unless_it_names_one() {
        let words = |line: &str| shell().words(&Command { namespaced: true, ..command(line) }).unwrap().join(" ");
        assert_eq!(words("kubectl get pods"), "kubectl get pods --namespace lab");
        for named in ["kubectl -n other get pods", "kubectl --namespace=other get pods", "kubectl -nother get pods"] {
            assert_eq!(words(named), named);
        }
    }

    #[tokio::test]
    async fn what_a_command_prints_is_told_and_its_status_counts() {
        assert_eq!(run(&script("echo out; echo err >&2; pwd")).await.unwrap(), "out\n/tmp\nerr");
        assert_eq!(run(&script("echo $NAMESPACE $KUBECONFIG")).await.unwrap(), "lab /suite/kubeconfig");
        let told = run(&script("echo why; exit 3")).await.unwrap_err();
        assert!(told.contains("exit status: 3") && told.contains("why"), "{told}");
        assert_eq!(run(&Command { ignore_failure: true, ..script("echo a; exit 3") }).await.unwrap(), "a");
        assert_eq!(run(&Command { skip_log_output: true, ..script("echo secret") }).await.unwrap(), "");
        let told = run(&command("no-such-program-anywhere")).await.unwrap_err();
        assert!(told.contains("cannot be started"), "{told}");
        // a program that is not there is no exit status: that is not ignored, as upstream has it
        assert!(run(&Command { ignore_failure: true, ..command("no-such-program-anywhere") }).await.is_err());
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_ends_with_all_that_it_has_started() {
        let began = Instant::now();
        let mark = tempfile::NamedTempFile::new().unwrap();
        let late = format!("(sleep 2; echo late > {}) & sleep 60", mark.path().display());
        let done = shell().run(&Command { timeout: 1, ..script(&late) }, Path::new("/tmp"), 30).await;
        assert!(matches!(&done, Err(CommandError::Timeout(_, 1))), "{done:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(std::fs::read_to_string(mark.path()).unwrap(), "", "a child of the script went on");
        // its own timeout is not the suite's
        assert_eq!(
            shell().run(&Command { timeout: -1, ..script("sleep 1.2") }, Path::new("/tmp"), 1).await,
            Ok(String::new())
        );
        assert!(shell().run(&script("sleep 1.2"), Path::new("/tmp"), 1).await.is_err());
    }
}
