//! What stopped a launch, in the machine's own terms, and how it becomes a report.

use crate::fault::{Fault, FaultKind, Place, Thread};
use crate::program::Program;

/// A broken rule; lane and instruction are filled in by whoever knows them.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub kind: FaultKind,
    pub lane: Option<u32>,
    pub thread: Option<Thread>,
    pub pc: Option<u32>,
    pub why: String,
}

/// What running gives.
pub(super) type Run<T = ()> = Result<T, Box<Broken>>;

/// A broken rule by a lane of the instruction that is running.
pub(super) fn broken<T>(kind: FaultKind, lane: u32, why: String) -> Run<T> {
    Err(Box::new(Broken { kind, lane: Some(lane), thread: None, pc: None, why }))
}

/// Coordinates of the element with the number `index`, x fastest.
pub(super) fn coordinates(index: u64, shape: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(shape[0]), u64::from(shape[1]));
    [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32]
}

/// The instruction in words, for the other party of a conflict.
pub(super) fn instruction(program: &Program, pc: u32) -> String {
    match program.places.get(pc as usize) {
        Some(place) if place.ptx > 0 => format!("PTX line {} ({})", place.ptx, place.text),
        _ => format!("instruction {pc}"),
    }
}

impl Broken {
    pub fn into_fault(self, program: &Program) -> Fault {
        let place = self.pc.and_then(|pc| program.places.get(pc as usize));
        let place = place.cloned().unwrap_or_else(Place::default);
        Fault { kind: self.kind, kernel: program.name.clone(), thread: self.thread, place, why: self.why }
    }
}
