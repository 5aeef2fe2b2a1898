//! The binary `millrace`: reads the arguments and hands over to the verb.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    millrace::cli::main()
}
