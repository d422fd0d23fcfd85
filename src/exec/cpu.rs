//! The native executor: runs each op's fast body on the host. Floats are read in place, codes are brought into panels once.

use super::{Executor, PlanId};
use crate::cpu::{Codes, Cpu};
use crate::error::{Error, Result};
use crate::hostmem::{HostRegions, RegionBytes};
use crate::plan::Plan;
use crate::tensor::Region;
use crate::weights::WeightSet;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Host memory, weights and loaded plans.
pub struct CpuExecutor {
    memory: HostRegions,
    sizes: RegionBytes,
    weights: Arc<WeightSet>,
    plans: HashMap<usize, Arc<Plan>>,
    next: usize,
    cpu: Cpu,
}

impl CpuExecutor {
    /// An executor with regions of the given sizes. It brings the codes of `weights` into panels, and frees rows that nobody else holds.
    ///
    /// # Errors
    /// [`Error::Memory`] if the system refuses the memory.
    pub fn new(sizes: RegionBytes, weights: &mut Arc<WeightSet>, cpu: Cpu) -> Result<Self> {
        let memory = HostRegions::new(&sizes)?;
        *weights = Arc::new(Arc::unwrap_or_clone(std::mem::take(weights)).into_panels(Codes::takes));
        Ok(CpuExecutor { memory, sizes, weights: weights.clone(), plans: HashMap::new(), next: 0, cpu })
    }

    fn range(&self, region: Region, offset: usize, len: usize) -> Result<Range<usize>> {
        let size = self.sizes.get(region);
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(offset..end),
            _ => Err(Error::contract("copy", format!("{offset}+{len} bytes in {} of {size}", region.name()))),
        }
    }
}

impl Executor for CpuExecutor {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn write(&mut self, region: Region, offset: usize, bytes: &[u8]) -> Result<()> {
        let range = self.range(region, offset, bytes.len())?;
        self.memory.bytes_mut(region)[range].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, region: Region, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let range = self.range(region, offset, bytes.len())?;
        bytes.copy_from_slice(&self.memory.bytes(region)[range]);
        Ok(())
    }

    fn load(&mut self, plan: Arc<Plan>) -> Result<PlanId> {
        super::check_arenas(&plan, |r| self.sizes.get(r))?;
        self.plans.insert(self.next, plan);
        self.next += 1;
        Ok(PlanId(self.next - 1))
    }

    fn unload(&mut self, id: PlanId) {
        self.plans.remove(&id.0);
    }

    fn plan(&self, id: PlanId) -> &Arc<Plan> {
        &self.plans[&id.0]
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    fn run(&mut self, id: PlanId, ops: Range<usize>) -> Result<()> {
        let CpuExecutor { memory, weights, plans, cpu, .. } = self;
        let plan = &plans[&id.0];
        for i in ops {
            let view = memory.view(&plan.launches()[i], plan.temps(), weights)?;
            plan.ops()[i].cpu(&view, cpu);
        }
        Ok(())
    }
}
