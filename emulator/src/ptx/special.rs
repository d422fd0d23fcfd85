//! Special registers by name. Those that change while a kernel runs (`%clock`) are instructions, and `forms` knows them.

use crate::isa::Ty;
use crate::program::Special;
use crate::registers::{Lanes, WARP};

/// What stands behind a name.
pub(super) enum Known {
    /// Fixed for a thread; the machine fills it in.
    Launch(Special, Ty),
    /// The same in every warp of every launch.
    Lanes(Lanes<u32>),
}

/// `%tid.x` and its like.
pub(super) fn special(name: &str) -> Option<Known> {
    let lanes = |f: fn(u32) -> u32| Some(Known::Lanes(std::array::from_fn(|lane| f(lane as u32))));
    match name {
        "WARP_SZ" => return lanes(|_| WARP as u32),
        "%laneid" => return lanes(|lane| lane),
        "%lanemask_eq" => return lanes(|lane| 1 << lane),
        "%lanemask_lt" => return lanes(|lane| (1 << lane) - 1),
        "%lanemask_le" => return lanes(|lane| u32::MAX >> (31 - lane)),
        "%lanemask_gt" => return lanes(|lane| !(u32::MAX >> (31 - lane))),
        "%lanemask_ge" => return lanes(|lane| u32::MAX << lane),
        "%gridid" => return Some(Known::Launch(Special::GridId, Ty::B64)),
        _ => {}
    }
    scalar(name).or_else(|| component(name)).map(|special| Known::Launch(special, Ty::B32))
}

fn scalar(name: &str) -> Option<Special> {
    Some(match name {
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%dynamic_smem_size" => Special::DynamicSharedSize,
        "%total_smem_size" => Special::TotalSharedSize,
        "%cluster_ctarank" => Special::ClusterCtaRank,
        "%cluster_nctarank" => Special::ClusterNCtaRank,
        _ => return None,
    })
}

fn component(name: &str) -> Option<Special> {
    let (name, component) = name.split_once('.')?;
    let dimension = match component {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        _ => return None,
    };
    let of = match name {
        "%tid" => Special::Tid,
        "%ntid" => Special::NTid,
        "%ctaid" => Special::CtaId,
        "%nctaid" => Special::NCtaId,
        "%clusterid" => Special::ClusterId,
        "%nclusterid" => Special::NClusterId,
        "%cluster_ctaid" => Special::ClusterCtaId,
        "%cluster_nctaid" => Special::ClusterNCtaId,
        _ => return None,
    };
    Some(of(dimension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_split_the_warp_at_every_lane() {
        let lanes = |name| match special(name) {
            Some(Known::Lanes(lanes)) => lanes,
            _ => panic!("{name}"),
        };
        let names = ["%lanemask_lt", "%lanemask_eq", "%lanemask_gt", "%lanemask_le", "%lanemask_ge"];
        let [lt, eq, gt, le, ge] = names.map(lanes);
        for lane in 0..WARP {
            assert_eq!(lt[lane].count_ones() as usize, lane);
            assert_eq!(u64::from(lt[lane]) + u64::from(eq[lane]) + u64::from(gt[lane]), u64::from(u32::MAX));
            assert_eq!((le[lane], ge[lane]), (lt[lane] | eq[lane], gt[lane] | eq[lane]));
        }
    }
}
