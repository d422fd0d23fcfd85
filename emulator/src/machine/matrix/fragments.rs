//! Which element of a matrix a lane holds: the fragment layouts of `mma` in the ISA document, stated once.
//!
//! All shapes share one pattern. The 32 lanes are 8 groups of 4. A register of A holds neighbours in k of one row (the
//! group's), a register of B neighbours in k of one column; so the 4 lanes of a group together hold a run of k. Registers
//! then step through the second half of the rows, and through further runs of k.

/// A place in a matrix: row and column.
pub type Place = (usize, usize);

/// Rows of A that one register spans.
pub const GROUPS: usize = 8;
/// Lanes of a group.
pub const GROUP: usize = 4;

/// Element `element` of register `register` of A, with `m` rows and `per` elements in a register.
pub fn a_place(m: usize, per: usize, lane: usize, register: usize, element: usize) -> Place {
    let halves = m / GROUPS;
    let run = register / halves * GROUP * per;
    (lane / GROUP + GROUPS * (register % halves), run + lane % GROUP * per + element)
}

/// Of B, which has 8 columns.
pub fn b_place(per: usize, lane: usize, register: usize, element: usize) -> Place {
    (register * GROUP * per + lane % GROUP * per + element, lane / GROUP)
}

/// Of C and D; a lane holds two neighbours of a row, in one register (16-bit elements) or in two.
pub fn c_place(per: usize, lane: usize, register: usize, element: usize) -> Place {
    let index = register * per + element;
    (lane / GROUP + GROUPS * (index / 2), lane % GROUP * 2 + index % 2)
}
