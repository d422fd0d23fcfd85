//! Names the driver library: a process that has loaded it by path gets it back from every later `dlopen("libcuda.so")`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
