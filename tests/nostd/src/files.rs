//! Files over a ring: everything that a turn of a service that stores calls, with completions of any content.

use spinwire_dataplane::error::{Misuse, PostError, Refused};
use spinwire_dataplane::file::{FileCompletion, FileId, FileRef, FileShape, Files, OpId};
use spinwire_dataplane::poll::{Budget, Outcome, Poll};
use spinwire_dataplane::raw::loan::Loan;
use spinwire_dataplane::time::Instant;
use spinwire_dataplane::uring::{Enter, EnterError};
use spinwire_layouts::uring::Cqe;

/// A kernel that answers whatever it likes.
#[derive(Debug)]
pub struct Answers(Result<u32, EnterError>);

impl Enter for Answers {
    fn enter(&self, _: u32, _: u32, _: u32) -> Result<u32, EnterError> {
        self.0
    }
}

type Probed<'m> = Files<'m, Answers>;

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_turn(files: &Probed<'_>, now: Instant, budget: Budget) -> Outcome {
    files.turn(now, budget)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_take_in(files: &Probed<'_>, cqe: &Cqe) -> bool {
    files.take_in(cqe)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_poll<'m>(files: &Probed<'m>) -> Option<FileCompletion<'m>> {
    files.poll()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_cancel(files: &Probed<'_>, op: OpId) -> Result<(), Misuse> {
    files.cancel(op)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_add(
    files: &Probed<'_>,
    file: FileRef,
    shape: FileShape,
) -> Result<FileId, PostError> {
    let id = files.add(file, shape)?;
    files.remove(id)?;
    Ok(id)
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_chain<'m>(
    files: &Probed<'m>,
    file: FileId,
    offset: u64,
    loans: [Loan<'m>; 2],
) -> Result<OpId, PostError> {
    let [first, second] = loans;
    let mut chain = files.chain()?;
    chain.write(file, offset, first, offset)?;
    chain.read(file, (offset, second.len()), second, offset)?;
    chain.sync(file, offset)?;
    chain.submit()
}

#[unsafe(no_mangle)]
pub extern "C" fn probe_file_single<'m>(
    files: &Probed<'m>,
    file: FileId,
    offset: u64,
    loan: Loan<'m>,
) -> Result<OpId, Refused<Loan<'m>>> {
    files.write(file, offset, loan, offset)
}
