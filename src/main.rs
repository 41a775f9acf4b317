//! Turns a result into an exit code, and nothing else.

fn main() -> std::process::ExitCode {
    imdsfw::cli::main()
}
