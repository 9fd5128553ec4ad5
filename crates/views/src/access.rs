//! Who asks, and whether they may: asked of the API server by [`Access`], remembered for a while by [`Gate`].
//!
//! *Guarantees*: what is remembered is bounded in number and in time; a question that is under way is one of few, so that
//! whoever floods this server does not flood the API server by it. *Caveats*: a right that was taken away, or a token that
//! was revoked, counts for [`GOOD_FOR`] more.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::{sync::Semaphore, time::Instant};

/// How long an answer is good: what Kubernetes' own servers take for allowed and denied alike.
pub const GOOD_FOR: Duration = Duration::from_secs(10);
/// Answers of each sort that are remembered.
const REMEMBERED: usize = 4096;
/// Questions that are under way at once, and how long one may take, with its wait for a place.
const AT_ONCE: usize = 32;
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest token that is asked about.
const TOKEN: usize = 16 * 1024;

/// Members may do everything: the API server asks nobody about them either, and its own probes come from them.
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const ANONYMOUS: &str = "system:anonymous";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// With the group that all have who are known.
    #[must_use]
    pub(crate) fn authenticated(mut self) -> Self {
        if self.name != ANONYMOUS && !self.groups.iter().any(|g| g == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// Whether it is known who that is.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.groups.iter().any(|g| g == AUTHENTICATED)
    }
}

/// What they want, in the words of a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub verb: &'static str,
    pub resource: &'static str,
    /// Empty: all namespaces, or none.
    pub namespace: Arc<str>,
    /// Empty: all.
    pub name: Arc<str>,
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} resource \"{}\" in API group \"{}\"", self.verb, self.resource, crate::GROUP)?;
        if self.namespace.is_empty() {
            f.write_str(" at the cluster scope")
        } else {
            write!(f, " in the namespace \"{}\"", self.namespace)
        }
    }
}

/// The API server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub allowed: bool,
    /// Why not, for the one who asked.
    pub reason: String,
}

/// It could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server can't be asked who may see this: {0}")]
pub struct Unavailable(pub String);

/// Asks the API server.
#[async_trait::async_trait]
pub trait Access: Send + Sync + 'static {
    /// Whose token it is (TokenReview). None: it is no good.
    async fn user(&self, token: &str) -> Result<Option<User>, Unavailable>;

    /// Whether the user may (SubjectAccessReview).
    async fn may(&self, user: &User, what: &Attributes) -> Result<Allowed, Unavailable>;
}

/// See the module.
pub struct Gate {
    access: Arc<dyn Access>,
    users: Memory<[u8; 32], Option<User>>,
    rights: Memory<(User, Attributes), Allowed>,
    places: Semaphore,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    #[must_use]
    pub fn new(access: Arc<dyn Access>) -> Self {
        Self { access, users: Memory::default(), rights: Memory::default(), places: Semaphore::new(AT_ONCE) }
    }

    /// Whose token it is.
    pub async fn user(&self, token: &str) -> Result<Option<User>, Unavailable> {
        if token.is_empty() || token.len() > TOKEN {
            return Ok(None);
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(user) = self.users.get(&digest) {
            return Ok(user);
        }
        let user = self.asked(self.access.user(token)).await?.map(User::authenticated);
        self.users.put(digest, user.clone());
        Ok(user)
    }

    /// Whether the user may.
    pub async fn may(&self, user: &User, what: &Attributes) -> Result<Allowed, Unavailable> {
        if user.groups.iter().any(|g| g == MASTERS) {
            return Ok(Allowed { allowed: true, reason: String::new() });
        }
        let question = (user.clone(), what.clone());
        if let Some(answer) = self.rights.get(&question) {
            return Ok(answer);
        }
        let answer = self.asked(self.access.may(user, what)).await?;
        self.rights.put(question, answer.clone());
        Ok(answer)
    }

    async fn asked<T>(&self, question: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
        let asked = async {
            let _place = self.places.acquire().await.map_err(|e| Unavailable(e.to_string()))?;
            question.await
        };
        let answer = tokio::time::timeout(DEADLINE, asked).await;
        answer.unwrap_or_else(|_| Err(Unavailable("no answer in time".to_owned())))
    }
}

/// Answers by their questions, for a while.
#[derive(Debug)]
struct Memory<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(key).filter(|(_, at)| at.elapsed() < GOOD_FOR).map(|(v, _)| v.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REMEMBERED {
            answers.retain(|_, (_, at)| at.elapsed() < GOOD_FOR);
        }
        // as many within the time are no clients: what does not fit is asked each time
        if answers.len() < REMEMBERED || answers.contains_key(&key) {
            answers.insert(key, (value, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted {
        asked: AtomicUsize,
        stuck: bool,
    }

    #[async_trait::async_trait]
    impl Access for Arc<Counted> {
        async fn user(&self, token: &str) -> Result<Option<User>, Unavailable> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Ok((token == "good").then(|| User { name: "alice".into(), ..User::default() }))
        }

        async fn may(&self, _: &User, what: &Attributes) -> Result<Allowed, Unavailable> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.stuck {
                std::future::pending::<()>().await;
            }
            Ok(Allowed { allowed: &*what.namespace == "a", reason: String::new() })
        }
    }

    fn list(namespace: &str) -> Attributes {
        Attributes { verb: "list", resource: "endpoints", namespace: namespace.into(), name: "".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_good_for_a_while_and_for_its_question_alone() {
        let access = Arc::new(Counted::default());
        let gate = Gate::new(Arc::new(access.clone()));
        let alice = User { name: "alice".into(), ..User::default() };
        let bob = User { name: "bob".into(), ..User::default() };
        for _ in 0..3 {
            assert!(gate.may(&alice, &list("a")).await.unwrap().allowed);
        }
        assert_eq!(access.asked.load(Ordering::SeqCst), 1);
        assert!(!gate.may(&alice, &list("b")).await.unwrap().allowed);
        assert!(gate.may(&bob, &list("a")).await.unwrap().allowed);
        assert_eq!(access.asked.load(Ordering::SeqCst), 3);
        tokio::time::advance(GOOD_FOR).await;
        assert!(gate.may(&alice, &list("a")).await.unwrap().allowed);
        assert_eq!(access.asked.load(Ordering::SeqCst), 4);
        let master = User { groups: vec![MASTERS.to_owned()], ..User::default() };
        assert!(gate.may(&master, &list("b")).await.unwrap().allowed, "the API server's own probes wait for nobody");
        assert_eq!(access.asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_remembered_good_or_bad_and_no_long_one_is_asked_about() {
        let access = Arc::new(Counted::default());
        let gate = Gate::new(Arc::new(access.clone()));
        for _ in 0..2 {
            let user = gate.user("good").await.unwrap().unwrap();
            assert_eq!((user.name.as_str(), user.is_known()), ("alice", true));
            assert_eq!(gate.user("bad").await, Ok(None));
        }
        assert_eq!(gate.user(&"x".repeat(TOKEN + 1)).await, Ok(None));
        assert_eq!(gate.user("").await, Ok(None));
        assert_eq!(access.asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_floods_with_questions_fills_no_memory_and_an_api_server_that_hangs_is_an_answer() {
        let access = Arc::new(Counted::default());
        let gate = Gate::new(Arc::new(access));
        for i in 0..REMEMBERED + 100 {
            gate.may(&User { name: i.to_string(), ..User::default() }, &list("a")).await.unwrap();
        }
        assert_eq!(gate.rights.0.lock().unwrap().len(), REMEMBERED);
        let stuck = Gate::new(Arc::new(Arc::new(Counted { stuck: true, ..Counted::default() })));
        let told = stuck.may(&User::default(), &list("a")).await.unwrap_err();
        assert!(told.to_string().contains("no answer in time"), "{told}");
    }
}
