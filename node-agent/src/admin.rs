//! What the admin socket answers: the documents of [`axoneme_flow::admin`], and two that only people ask for.
//!
//! `GET /drift` lists what the kernel holds that is not what is wanted; `POST /repair` mends it.

use std::{sync::Arc, time::Duration};

use axoneme_flow::{
    Hub, Query, Session, Step,
    admin::{COVERAGE, EXPLAIN, FLOWS, HEALTH, IDENTITIES, STATUS, TABLES, WHO_CAN},
    explain,
};
use axoneme_model::rows::RowSet;
use axoneme_runtime::admin::{Answer, Handler, Lines, Question};
use tokio::sync::{mpsc, oneshot};

use crate::{
    health::task::Asker,
    run::{Look, Mail},
};

pub const DRIFT: &str = "/drift";
pub const REPAIR: &str = "/repair";

/// Records that one step of a reader looks at.
const BUDGET: usize = 512;
/// A reader that has caught up looks again so often.
const IDLE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Admin {
    pub engine: mpsc::Sender<Mail>,
    pub flows: Arc<Hub>,
    pub health: Asker,
}

impl Handler for Admin {
    async fn answer(&self, question: Question) -> Answer {
        match (question.post, &*question.path) {
            (false, STATUS) => match self.ask(Mail::Status).await {
                Some(mut status) => {
                    status.status.lost_flows = self.flows.lost_by_cause();
                    status.status.health = self.health.summary().await;
                    Answer::json(&status)
                }
                None => gone(),
            },
            (false, IDENTITIES) => self.ask(Mail::Identities).await.map_or_else(gone, |v| Answer::json(&v)),
            (false, TABLES) => self.ask(Mail::Tables).await.map_or_else(gone, |v| Answer::json(&v)),
            (false, EXPLAIN) => match explain::Question::from_url(&question.query) {
                Ok(q) => said(self.look(move |rows| explain::explain(rows, own_host(rows), &q)).await),
                Err(error) => Answer::Failed(error),
            },
            (false, WHO_CAN) => match explain::target_from_url(&question.query) {
                Ok(target) => said(self.look(move |rows| explain::who_can(rows, own_host(rows), &target)).await),
                Err(error) => Answer::Failed(error),
            },
            (false, COVERAGE) => self.look(explain::coverage).await.map_or_else(gone, |v| Answer::json(&v)),
            (false, HEALTH) => Answer::json(&self.health.matrix().await),
            (false, FLOWS) => self.flows(&question.query),
            (false, DRIFT) => result(self.ask(Mail::Drift).await),
            (true, REPAIR) => result(self.ask(Mail::Repair).await),
            (_, path) => Answer::NotFound(format!(
                "{path}: there is GET {STATUS}, {IDENTITIES}, {TABLES}, {EXPLAIN}, {WHO_CAN}, {COVERAGE}, {HEALTH}, {FLOWS}, {DRIFT} and POST {REPAIR}"
            )),
        }
    }
}

fn gone() -> Answer {
    Answer::Failed("the agent is stopping".to_owned())
}

/// An answer, or the sentence that says why there is none.
fn said<T: serde::Serialize>(outcome: Option<Result<T, String>>) -> Answer {
    match outcome {
        Some(Ok(value)) => Answer::json(&value),
        Some(Err(sentence)) => Answer::Failed(sentence),
        None => gone(),
    }
}

fn own_host(rows: &RowSet) -> bool {
    rows.config.as_ref().is_none_or(|c| c.always_allow_own_host)
}

fn result<T: serde::Serialize>(outcome: Option<Result<T, crate::Error>>) -> Answer {
    match outcome {
        Some(Ok(value)) => Answer::json(&value),
        Some(Err(error)) => Answer::Failed(error.to_string()),
        None => gone(),
    }
}

impl Admin {
    async fn ask<T>(&self, mail: impl FnOnce(oneshot::Sender<T>) -> Mail) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.engine.send(mail(reply)).await.ok()?;
        answer.await.ok()
    }

    /// What can be read off the rows that the node runs by.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&RowSet) -> T + Send + 'static) -> Option<T> {
        let mail = |reply: oneshot::Sender<T>| {
            // who asked may have gone
            Mail::Rows(Look(Box::new(move |rows| drop(reply.send(look(rows))))))
        };
        self.ask(mail).await
    }

    fn flows(&self, query: &str) -> Answer {
        let session = Query::from_url(query).map_err(|e| vec![e]).and_then(|q| self.flows.open(&q));
        match session {
            Ok(session) => Answer::Lines(lines(session)),
            Err(errors) => Answer::NotFound(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// The lines of a session; it waits while there is nothing new.
fn lines(session: Session) -> Lines {
    let stream = futures::stream::unfold(Some((session, Vec::<String>::new().into_iter())), |state| async move {
        let (mut session, mut ready) = state?;
        loop {
            if let Some(line) = ready.next() {
                return Some((line, Some((session, ready))));
            }
            let step = session.step(BUDGET);
            match &step {
                Step::Lines(_) => ready = Session::json(&step).into_iter(),
                Step::Nothing => tokio::task::yield_now().await,
                Step::Idle => tokio::time::sleep(IDLE).await,
                Step::End => return None,
            }
        }
    });
    Box::pin(stream)
}
