//! Prints the CustomResourceDefinition.

use kube::CustomResourceExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", millrace_crds::definition(&millrace_crds::StreamJob::crd())?);
    Ok(())
}
