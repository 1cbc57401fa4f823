//! What a negotiation has come to, and the walk along it.

use core::fmt;

use spinwire_dataplane::provider::EndpointType;

use super::Unmet;
use crate::discover::Found;
use crate::uri::{Place, Uri};

/// Why something stands where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Its type of endpoint is the preferred one.
    Preferred(EndpointType),
    /// Its type of endpoint will do where there is no better.
    SecondBest(EndpointType),
    /// Shared memory, and the peer is on this host.
    MemoryHere,
    /// Shared memory, if the peer is on this host.
    MemoryIfHere,
    /// A network card reads and writes memory, and the kernel is not asked.
    Device,
    /// Through the network stack of the kernel.
    Kernel,
    /// Through the library of others, behind our own way of the same kind.
    Foreign,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preferred(kind) => write!(f, "{kind} is preferred"),
            Self::SecondBest(kind) => write!(f, "{kind} will do"),
            Self::MemoryHere => f.write_str("shared memory, as the peer is on this host"),
            Self::MemoryIfHere => f.write_str("shared memory, if the peer is on this host"),
            Self::Device => f.write_str("by a device, past the kernel"),
            Self::Kernel => f.write_str("through the kernel"),
            Self::Foreign => f.write_str("through libfabric"),
        }
    }
}

/// Something that fulfils the requirements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// What.
    pub found: Found,
    /// The address of the peer that it leads to, where addresses are known.
    pub uri: Option<Uri>,
    /// Why it stands where it stands.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.fmt(f)?;
        self.uri.as_ref().map_or(Ok(()), |uri| write!(f, " {uri}"))
    }
}

/// Something that does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// What.
    pub found: Found,
    /// Every requirement that it does not fulfil.
    pub unmet: Vec<Unmet>,
    /// What would help: another size, another provider, something to install, or less to ask for. In the order of what it helps.
    pub remedies: Vec<String>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.found)?;
        for (index, unmet) in self.unmet.iter().enumerate() {
            write!(f, "{}{unmet}", if index == 0 { "" } else { "; " })?;
        }
        for (index, remedy) in self.remedies.iter().enumerate() {
            write!(f, "{}{remedy}", if index == 0 { "; remedy: " } else { "; and " })?;
        }
        Ok(())
    }
}

/// An address of the peer that leads to nothing that was looked at: no such device or provider is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nowhere(pub Uri);

impl fmt::Display for Nowhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uri, transport) = (&self.0, self.0.transport());
        let named = match uri.place() {
            Place::Fabric { provider, .. } => format!("provider {provider:?} of libfabric"),
            Place::Device { device, .. } => format!("device {device:?}"),
            Place::Shm { .. } | Place::Socket(_) => "such transport".to_owned(),
        };
        write!(
            f,
            "{uri}: there is no {named} here; remedy: spinwire providers --only {transport} # lists what there is"
        )
    }
}

/// What can be taken, the best first, and what cannot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// What fulfils everything, the best first.
    pub choices: Vec<Choice>,
    /// What does not, in the order of discovery.
    pub rejected: Vec<Rejected>,
    /// Addresses of the peer that lead to none of all these.
    pub unknown: Vec<Nowhere>,
}

/// A choice that was tried in vain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed<E> {
    /// Which.
    pub choice: Choice,
    /// Why.
    pub error: E,
}

impl<E: fmt::Display> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.choice, self.error)
    }
}

/// Where a walk has ended well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walked<T, E> {
    /// What the attempt has made.
    pub value: T,
    /// By which choice.
    pub choice: Choice,
    /// Those before it.
    pub failed: Vec<Failed<E>>,
}

/// A walk along everything that there was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoPath<E> {
    /// What was tried, and why in vain.
    pub failed: Vec<Failed<E>>,
    /// What was not tried, and why.
    pub rejected: Vec<Rejected>,
    /// Addresses that lead to nothing here.
    pub unknown: Vec<Nowhere>,
}

impl<E: fmt::Display> fmt::Display for NoPath<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.failed.len() {
            0 => "nothing here fulfils the requirements",
            _ => "nothing that fulfils the requirements can be opened",
        })?;
        // What was tried comes last, for its remedy is what helps. Of a transport that was tried nothing else need be said, and of
        // what no address leads to nothing at all where addresses lead elsewhere.
        let is_tried = |it: &Found| {
            self.failed.iter().any(|failed| failed.choice.found.transport == it.transport)
        };
        let is_meant = |it: &Rejected| !it.unmet.iter().any(|it| matches!(it, Unmet::NoAddress(_)));
        let has_meant = !self.failed.is_empty()
            || !self.unknown.is_empty()
            || self.rejected.iter().any(is_meant);
        self.rejected
            .iter()
            .filter(|it| !is_tried(&it.found) && (is_meant(it) || !has_meant))
            .try_for_each(|rejected| write!(f, "\n  {rejected}"))?;
        self.unknown.iter().try_for_each(|unknown| write!(f, "\n  {unknown}"))?;
        self.failed.iter().try_for_each(|failed| write!(f, "\n  {failed}"))
    }
}

impl<E: fmt::Display + fmt::Debug> core::error::Error for NoPath<E> {}

impl Plan {
    /// The best, if there is any.
    #[must_use]
    pub fn best(&self) -> Option<&Choice> {
        self.choices.first()
    }

    /// Tries one after the other, the best first, until one succeeds. What is not reached is not tried.
    ///
    /// # Errors
    /// [`NoPath`] with all that was tried, where none did.
    pub fn walk<T, E>(
        &self,
        mut attempt: impl FnMut(&Choice) -> Result<T, E>,
    ) -> Result<Walked<T, E>, NoPath<E>> {
        let mut failed = Vec::new();
        for choice in &self.choices {
            match attempt(choice) {
                Ok(value) => return Ok(Walked { value, choice: choice.clone(), failed }),
                Err(error) => failed.push(Failed { choice: choice.clone(), error }),
            }
        }
        Err(NoPath { failed, rejected: self.rejected.clone(), unknown: self.unknown.clone() })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, choice) in self.choices.iter().enumerate() {
            write!(f, "{}. {choice}", index.saturating_add(1))?;
            for (index, reason) in choice.reasons.iter().enumerate() {
                write!(f, "{} {reason}", if index == 0 { ":" } else { "," })?;
            }
            writeln!(f)?;
        }
        self.rejected.iter().try_for_each(|rejected| writeln!(f, "-  {rejected}"))?;
        self.unknown.iter().try_for_each(|unknown| writeln!(f, "-  {unknown}"))
    }
}
