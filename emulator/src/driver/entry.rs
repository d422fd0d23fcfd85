//! Finding functions by name, the names of errors, and what is only accepted.

use super::abi::{offer, put, text};
use super::error::{Error, R};
use super::{
    capture, context, copy, device, emu, event, function, graph, graph_edit, graph_node, launch, memory, module, pool,
    stream, tensor,
};
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

/// Functions whose arguments changed: name, since which CUDA version, and the symbol of that form. The others have one
/// form, whatever their suffix.
const FORMS: [(&str, i32, &str); 40] = [
    ("cuCtxCreate", 0, "cuCtxCreate_v2"),
    ("cuCtxCreate", 11040, "cuCtxCreate_v3"),
    ("cuCtxCreate", 12050, "cuCtxCreate_v4"),
    ("cuGraphInstantiate", 0, "cuGraphInstantiate_v2"),
    ("cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"),
    ("cuStreamBeginCapture", 0, "cuStreamBeginCapture"),
    ("cuStreamBeginCapture", 10010, "cuStreamBeginCapture_v2"),
    ("cuStreamGetCaptureInfo", 0, "cuStreamGetCaptureInfo"),
    ("cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"),
    ("cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"),
    ("cuGraphExecUpdate", 0, "cuGraphExecUpdate"),
    ("cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"),
    ("cuGraphAddKernelNode", 0, "cuGraphAddKernelNode"),
    ("cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2"),
    ("cuGraphKernelNodeGetParams", 0, "cuGraphKernelNodeGetParams"),
    ("cuGraphKernelNodeGetParams", 12000, "cuGraphKernelNodeGetParams_v2"),
    ("cuGraphKernelNodeSetParams", 0, "cuGraphKernelNodeSetParams"),
    ("cuGraphKernelNodeSetParams", 12000, "cuGraphKernelNodeSetParams_v2"),
    ("cuGraphExecKernelNodeSetParams", 0, "cuGraphExecKernelNodeSetParams"),
    ("cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2"),
    ("cuGraphGetEdges", 0, "cuGraphGetEdges"),
    ("cuGraphGetEdges", 12030, "cuGraphGetEdges_v2"),
    ("cuGraphNodeGetDependencies", 0, "cuGraphNodeGetDependencies"),
    ("cuGraphNodeGetDependencies", 12030, "cuGraphNodeGetDependencies_v2"),
    ("cuGraphNodeGetDependentNodes", 0, "cuGraphNodeGetDependentNodes"),
    ("cuGraphNodeGetDependentNodes", 12030, "cuGraphNodeGetDependentNodes_v2"),
    ("cuGraphAddDependencies", 0, "cuGraphAddDependencies"),
    ("cuGraphAddDependencies", 12030, "cuGraphAddDependencies_v2"),
    ("cuGraphRemoveDependencies", 0, "cuGraphRemoveDependencies"),
    ("cuGraphRemoveDependencies", 12030, "cuGraphRemoveDependencies_v2"),
    ("cuGraphAddNode", 0, "cuGraphAddNode"),
    ("cuGraphAddNode", 12030, "cuGraphAddNode_v2"),
    ("cuMemPrefetchAsync", 0, "cuMemPrefetchAsync"),
    ("cuMemPrefetchAsync", 12020, "cuMemPrefetchAsync_v2"),
    ("cuStreamGetCtx", 0, "cuStreamGetCtx"),
    ("cuStreamGetCtx", 12050, "cuStreamGetCtx_v2"),
    ("cuCtxGetDevice", 13000, "cuCtxGetDevice_v2"),
    ("cuCtxSynchronize", 13000, "cuCtxSynchronize_v2"),
    ("cuGetProcAddress", 0, "cuGetProcAddress"),
    ("cuGetProcAddress", 12000, "cuGetProcAddress_v2"),
];

/// Every exported function.
fn symbols() -> impl Iterator<Item = (&'static str, *const ())> {
    let files = [
        capture::SYMBOLS,
        context::SYMBOLS,
        copy::SYMBOLS,
        device::SYMBOLS,
        emu::SYMBOLS,
        SYMBOLS,
        event::SYMBOLS,
        function::SYMBOLS,
        graph::SYMBOLS,
        graph_edit::SYMBOLS,
        graph_node::SYMBOLS,
        launch::SYMBOLS,
        memory::SYMBOLS,
        module::SYMBOLS,
        pool::SYMBOLS,
        stream::SYMBOLS,
        tensor::SYMBOLS,
    ];
    files.into_iter().flatten().copied()
}

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

/// The function that a program compiled for a CUDA version means by a name.
fn find(name: &str, version: i32, flags: u64) -> Option<*const ()> {
    static ADDRESSES: OnceLock<HashMap<&str, usize>> = OnceLock::new();
    let addresses = ADDRESSES.get_or_init(|| symbols().map(|(name, at)| (name, at as usize)).collect());
    let form = FORMS.iter().rev().find(|(base, since, _)| *base == name && *since <= version);
    let symbol = form.map_or(name, |(_, _, symbol)| symbol);
    let suffixes: &[&str] = match flags & PER_THREAD {
        0 => &["", "_v2", "_v3"],
        _ => &["_ptsz", "_ptds", "_v2_ptsz", "_v2_ptds", "", "_v2", "_v3"],
    };
    let with = |suffix: &&str| addresses.get(format!("{symbol}{suffix}").as_str()).copied();
    suffixes.iter().find_map(with).map(|at| at as *const ())
}

unsafe fn proc_address(name: *const c_char, to: *mut *const (), version: i32, flags: u64) -> R {
    // SAFETY: the caller's pointers.
    unsafe {
        let found = find(text(name)?, version, flags);
        put(to, found.unwrap_or(std::ptr::null()))?;
        found.map(|_| ()).ok_or(Error::NOT_FOUND)
    }
}

unsafe fn describe(to: *mut *const c_char, text: Option<*const c_char>) -> R {
    // SAFETY: the caller's pointer.
    unsafe { put(to, text.unwrap_or(std::ptr::null()))? };
    text.map(|_| ()).ok_or(Error::INVALID_VALUE)
}

api! {
    fn cuGetErrorName [] (code: u32, to: *mut *const c_char) {
        describe(to, Error::describe(code).map(|(name, _)| name.as_ptr()))
    }
    fn cuGetErrorString [] (code: u32, to: *mut *const c_char) {
        describe(to, Error::describe(code).map(|(_, text)| text.as_ptr()))
    }
    fn cuGetProcAddress [] (name: *const c_char, to: *mut *const (), version: i32, flags: u64) {
        proc_address(name, to, version, flags)
    }
    /// NOT_FOUND also shows in `status` (1), as success does (0).
    fn cuGetProcAddress_v2 []
        (name: *const c_char, to: *mut *const (), version: i32, flags: u64, status: *mut u32)
    {
        let found = proc_address(name, to, version, flags);
        offer(status, found.is_err().into());
        found
    }
    /// Private tables of the CUDA runtime: there are none.
    fn cuGetExportTable [] (table: *mut *const c_void, _id: *const [u8; 16]) {
        offer(table, std::ptr::null());
        Err(Error::NOT_FOUND)
    }
    /// Every launch is counted anyway.
    fn cuProfilerStart [] () { Ok(()) }
    fn cuProfilerStop [] () { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_form_is_exported_under_a_name_of_its_own() {
        let names: Vec<&str> = symbols().map(|(name, _)| name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        for (_, _, symbol) in FORMS {
            assert!(names.contains(&symbol), "{symbol}");
        }
    }

    #[test]
    fn the_version_chooses_the_form() {
        let at = |name| symbols().find(|(n, _)| *n == name).map(|(_, at)| at);
        assert_eq!(find("cuMemAlloc", 12000, 0), at("cuMemAlloc"));
        assert_eq!(find("cuGraphInstantiate", 11080, 0), at("cuGraphInstantiate_v2"));
        assert_eq!(find("cuGraphInstantiate", 13000, 0), at("cuGraphInstantiateWithFlags"));
        assert_eq!(find("cuLaunchKernel", 13000, PER_THREAD), at("cuLaunchKernel_ptsz"));
        assert_eq!(find("cuMemcpyHtoD", 13000, PER_THREAD), at("cuMemcpyHtoD_v2_ptds"));
        assert_eq!(find("cuTexRefCreate", 13000, 0), None);
    }
}
