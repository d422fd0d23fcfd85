//! A warp: its registers, its lanes in groups that are at the same instruction, and what it has under way.

use super::cluster::Awaited;
use super::copies::{BulkGroups, Copies};
use super::cta::Cta;
use super::grid::Grid;
use super::products::Products;
use crate::fault::Thread;
use crate::machine::report::Broken;
use crate::machine::shared::Bytes;
use crate::machine::tally::Tally;
use crate::registers::{Mask, Registers, WARP, lanes};

/// Instructions after which a group lets the others of its warp go ahead.
pub const PATIENCE: u32 = 1 << 20;

/// What a worker owns.
pub struct Work {
    pub tally: Tally,
    /// By instruction: the allocation that its last access was in.
    pub recent: Vec<u32>,
    /// Something was stored since this was last asked.
    pub progress: bool,
    /// Accesses to memory that others may change meanwhile.
    pub looks: u32,
}

/// What an instruction may reach beside its warp.
pub struct Cx<'b, 'g> {
    pub grid: &'g Grid<'g>,
    pub cta: &'b mut Cta,
    pub work: &'b mut Work,
}

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// Waits for lanes of its own warp.
    Meeting,
    /// Waits at a barrier of the block.
    Barrier(u32),
}

/// Lanes at the same instruction.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub pc: u32,
    pub mask: Mask,
    pub state: State,
}

/// Where the lanes of a group go after an instruction.
pub enum Flow {
    Next,
    /// To the next instruction, and let others run.
    Yield,
    /// To the same instruction again, once others have run.
    Stay,
    /// These lanes jump, the others of the group go on.
    Jump(u32, Mask),
    /// These lanes are gone.
    Exit(Mask),
    /// Everyone is where the instruction put them: new groups replace the current one.
    Replaced,
}

/// See the module.
pub struct Warp<'g> {
    pub index: u32,
    pub regs: Registers<'g>,
    /// Lanes that have not exited.
    pub live: Mask,
    pub groups: Vec<Group>,
    pub local: Bytes,
    pub copies: Copies,
    pub bulks: BulkGroups,
    pub awaited: Awaited,
    pub products: Products,
    /// Lanes that have written each tracked register.
    pub written: Vec<Mask>,
    /// With the check off: the next `.sync` makes do with the lanes that came.
    pub lenient: bool,
    /// Left until other groups go ahead.
    pub patience: u32,
}

impl<'g> Warp<'g> {
    /// Warp `index` of a block, at the program's start.
    pub fn new(grid: &'g Grid<'g>, index: u32, block: u64) -> Warp<'g> {
        let program = grid.program;
        let live = grid.lanes_of(index);
        let mut regs = Registers::new(program.rows as usize, program.predicates as usize, &program.constants);
        grid.fill_specials(&mut regs, index, block);
        Warp {
            index,
            regs,
            live,
            groups: vec![Group { pc: 0, mask: live, state: State::Ready }],
            local: Bytes::new(grid.local * WARP as u64),
            copies: Copies::default(),
            bulks: BulkGroups::default(),
            awaited: [0; WARP],
            products: Products::default(),
            written: vec![0; program.tracked.count as usize],
            lenient: false,
            patience: PATIENCE,
        }
    }

    /// Adds instruction and thread to a broken rule.
    #[cold]
    pub fn blame(&self, cx: &Cx, pc: u32, mut broken: Box<Broken>) -> Box<Broken> {
        broken.pc.get_or_insert(pc);
        if let Some(lane) = broken.lane {
            let thread = cx.grid.thread_at(self.index * WARP as u32 + lane);
            broken.thread = Some(Thread { block: cx.cta.place, thread });
        }
        broken
    }

    /// Scatters the lanes of the current group: those of `moved` by their own next instruction, the rest to the next one.
    pub fn scatter(&mut self, group: Group, moved: Mask, next: impl Fn(usize) -> u32) -> Flow {
        for lane in lanes(group.mask) {
            let pc = if moved >> lane & 1 == 1 { next(lane) } else { group.pc + 1 };
            match self.groups.iter_mut().find(|g| g.pc == pc && g.state == State::Ready) {
                Some(g) => g.mask |= 1 << lane,
                None => self.groups.push(Group { pc, mask: 1 << lane, state: State::Ready }),
            }
        }
        Flow::Replaced
    }
}
