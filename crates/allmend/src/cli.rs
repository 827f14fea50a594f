//! Flags and verbs. Names follow what k3s users know.
//!
//! Must not do the work: each verb has a module of its own.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::datastore::DatastoreFlags;
use crate::datastore::verbs::DatastoreVerb;
use crate::{config_file, credentials, datastore, logging};

/// Where everything is kept unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/allmend";

/// Virtual machines and containers side by side in one pool, driven by the Kubernetes API.
#[derive(Parser)]
#[command(name = "allmend", version = version_line(), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the API server, the controllers and, unless --disable-agent, a node.
    Server(Box<ServerFlags>),
    /// Join a server elsewhere as a node.
    Agent(Box<AgentFlags>),
    /// Print the version.
    Version,
    /// Print a kubeconfig with the administrator's credentials.
    Kubeconfig(KubeconfigFlags),
    /// Print the token with which other machines join.
    Token(DataDir),
    /// Import, list and remove images of this machine's containerd.
    #[command(subcommand)]
    Image(ImageVerb),
    /// Move, save, restore, check and re-encrypt the state of a cluster.
    #[command(subcommand)]
    Datastore(DatastoreVerb),
    /// Remove everything that a server made on this machine: workloads, network, data.
    Purge(PurgeFlags),
    /// Print completions for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Supervise one virtual machine (started by the node agent, not by people).
    #[command(hide = true)]
    MachineSupervisor {
        /// Directory of the machine.
        directory: PathBuf,
    },
}

/// The data directory alone.
#[derive(Args, Clone)]
pub struct DataDir {
    /// Where all state is kept.
    #[arg(long, short = 'd', default_value = DEFAULT_DATA_DIR, env = "ALLMEND_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// Flags that server and agent share.
#[derive(Args, Clone)]
pub struct NodeFlags {
    /// Where all state is kept.
    #[arg(long, short = 'd', default_value = DEFAULT_DATA_DIR, env = "ALLMEND_DATA_DIR")]
    pub data_dir: PathBuf,
    /// YAML file with the same names as the flags; flags on the command line win.
    #[arg(long, short = 'c', env = "ALLMEND_CONFIG_FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node; the host name unless given.
    #[arg(long, env = "ALLMEND_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address by which other nodes reach this one; that of the default route unless given.
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Label to register the node with, key=value; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub node_label: Vec<String>,
    /// Taint to register the node with, key=value:Effect; may be repeated.
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',')]
    pub node_taint: Vec<String>,
    /// CRI socket of a container runtime to use instead of our own containerd.
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Shared secret with which machines join.
    #[arg(long, env = "ALLMEND_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value = "pretty")]
    pub log_format: LogFormat,
    /// More detail in the log; repeat for more still.
    #[arg(long, short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Port of the node's own HTTPS server (logs, exec, metrics).
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
}

/// Flags of `allmend server`.
#[derive(Args, Clone)]
pub struct ServerFlags {
    #[command(flatten)]
    pub node: NodeFlags,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443)]
    pub https_listen_port: u16,
    /// More names and addresses for the server's certificate; may be repeated.
    #[arg(long, value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Where to write the administrator's kubeconfig.
    #[arg(
        long,
        short = 'o',
        default_value = "/etc/allmend/allmend.yaml",
        env = "ALLMEND_KUBECONFIG_OUTPUT"
    )]
    pub write_kubeconfig: PathBuf,
    /// File mode of that kubeconfig, octal.
    #[arg(long, default_value = "600", value_parser = parse_mode)]
    pub write_kubeconfig_mode: u32,
    /// Run no node on this machine.
    #[arg(long)]
    pub disable_agent: bool,
    /// Addresses of pods.
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: String,
    /// Addresses of services.
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: String,
    /// Ports of NodePort services.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Address of the cluster's DNS; the tenth of the service addresses unless given.
    #[arg(long)]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster's DNS names.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub datastore: DatastoreFlags,
    /// Leave a component out; may be repeated.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub disable: Vec<Component>,
}

/// Flags of `allmend agent`.
#[derive(Args, Clone)]
pub struct AgentFlags {
    /// The server to join, such as https://10.0.0.1:6443.
    #[arg(long, short = 's', env = "ALLMEND_URL", value_name = "URL")]
    pub server: String,
    #[command(flatten)]
    pub node: NodeFlags,
    /// Leave a component out on this node; may be repeated.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub disable: Vec<Component>,
}

#[derive(Subcommand)]
enum ImageVerb {
    /// Import docker archives and OCI layouts (archives or directories).
    Import {
        #[command(flatten)]
        place: ImagePlace,
        /// Name for an OCI layout that carries none.
        #[arg(long)]
        name: Option<String>,
        /// Files or directories.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// List images.
    Ls {
        #[command(flatten)]
        place: ImagePlace,
    },
    /// Remove images by name or id.
    Rm {
        #[command(flatten)]
        place: ImagePlace,
        /// Names or ids.
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Which containerd.
#[derive(Args)]
struct ImagePlace {
    #[command(flatten)]
    data: DataDir,
    /// CRI socket of another container runtime.
    #[arg(long, value_name = "SOCKET")]
    container_runtime_endpoint: Option<String>,
}

fn image(verb: ImageVerb) -> Result<()> {
    use crate::image::Verb;
    let (place, verb) = match verb {
        ImageVerb::Import { place, name, paths } => (place, Verb::Import { paths, name }),
        ImageVerb::Ls { place } => (place, Verb::List),
        ImageVerb::Rm { place, images } => (place, Verb::Remove { images }),
    };
    crate::image::run(&place.data.data_dir, place.container_runtime_endpoint.as_deref(), verb)
}

#[derive(Args)]
struct PurgeFlags {
    #[command(flatten)]
    data: DataDir,
    /// Really do it.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct KubeconfigFlags {
    #[command(flatten)]
    data: DataDir,
    /// URL of the server to write into it; the one it listens on unless given.
    #[arg(long)]
    server: Option<String>,
}

/// A part of the server that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// Cluster DNS on each node.
    Dns,
    /// The `local` storage class.
    LocalStorage,
    /// Virtual machines.
    Machines,
    /// The service proxy (when another takes its place).
    ServiceProxy,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Parses the command line and runs its verb.
pub fn run() -> Result<()> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = Cli::parse_from(config_file::expand(args)?);
    match cli.verb {
        Verb::Server(flags) => {
            logging::start(flags.node.log_format, flags.node.verbose)?;
            crate::server::run(*flags)
        }
        Verb::Agent(flags) => {
            logging::start(flags.node.log_format, flags.node.verbose)?;
            crate::agent::run(*flags)
        }
        Verb::Version => {
            println!("allmend {}", version_line());
            Ok(())
        }
        Verb::Kubeconfig(flags) => {
            let text = credentials::admin_kubeconfig(&flags.data.data_dir, flags.server.as_deref())?;
            println!("{text}");
            Ok(())
        }
        Verb::Token(flags) => {
            println!("{}", credentials::join_token(&flags.data_dir)?);
            Ok(())
        }
        Verb::Image(verb) => image(verb),
        Verb::Datastore(verb) => datastore::verbs::run(verb),
        Verb::Purge(flags) => crate::purge::run(&flags.data.data_dir, flags.yes),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "allmend", &mut std::io::stdout());
            Ok(())
        }
        Verb::MachineSupervisor { directory } => {
            machines::supervise(&directory).with_context(|| format!("supervise machine in {}", directory.display()))
        }
    }
}

fn version_line() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes API 1.36)")
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("a file mode in octal, such as 600 or 644".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_and_kind_is_documented() {
        let flags = include_str!("../../../docs/flags.md");
        let command = Cli::command();
        for verb in ["server", "agent"] {
            let command = command.find_subcommand(verb).unwrap();
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(flags.contains(&format!("`--{flag}")), "docs/flags.md lacks --{flag}");
            }
        }
        let documented = include_str!("../../../docs/kinds.md");
        for kind in kinds::all() {
            let resource = format!("`{}` (", kind.plural);
            let silent = !kind.verbs.contains(&"get");
            assert!(
                silent || documented.contains(&resource),
                "docs/kinds.md lacks {}",
                kind.kind
            );
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("644"), Ok(0o644));
        assert!(parse_mode("9").is_err() && parse_mode("1777").is_err());
    }
}
