//! An HTTP server inside the test that can go away, with all its connections, and come back at the same address.
//!
//! Always true: when it is down, no connection to it can be made, and those that were there are cut.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

use axum::Router;
use rand::RngExt;
use tokio::runtime::{Builder, Runtime};

/// Below the ports that the kernel gives to outgoing connections: one of those must not take the port of a server that
/// is being restarted.
const PORTS: Range<u16> = 10_000..32_000;

/// A port at which nobody listens.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// See the module.
pub struct Server {
    port: u16,
    router: Router,
    /// Threads of its own: ended, they take everything with them.
    runtime: Option<Runtime>,
}

impl Server {
    /// Serves at a free port.
    pub fn start(router: Router) -> Self {
        let mut server = Self { port: free_port(), router, runtime: None };
        server.up();
        server
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Serves again.
    pub fn up(&mut self) {
        if self.runtime.is_some() {
            return;
        }
        let listener = loop {
            match TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)) {
                Ok(listener) => break listener,
                // The one before is still being closed.
                Err(_) => std::thread::sleep(crate::wait::PAUSE),
            }
        };
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread can be started");
        let router = self.router.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("the socket listens");
            axum::serve(listener, router).await
        });
        self.runtime = Some(runtime);
    }

    /// Goes away.
    pub fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                std::thread::sleep(crate::wait::PAUSE);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
