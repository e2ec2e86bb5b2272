//! HTTP/1.1 as bytes: requests that no client library would send, and a proxy that lies.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request or an answer.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The first line and the headers but those that say how the body travels.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// What `content-length` says, where that is not the body's length.
    pub(crate) said_bytes: Option<usize>,
}

impl Message {
    /// The next message; `None` when the other side has gone.
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut stream = BufReader::new(stream);
        let (mut head, mut bytes) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|&n| n > 0)?;
            let line = line.trim_end().to_owned();
            match line.to_lowercase() {
                end if end.is_empty() => break,
                line if line.starts_with("connection:") => continue,
                line if line.starts_with("transfer-encoding:") => panic!("{line}"),
                line => {
                    if let Some(length) = line.strip_prefix("content-length:") {
                        bytes = length.trim().parse().unwrap();
                        continue;
                    }
                }
            }
            head.push(line);
        }
        let mut body = vec![0; bytes];
        stream.read_exact(&mut body).ok()?;
        Some(Self { head, body, said_bytes: None })
    }

    fn write(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let length = self.said_bytes.unwrap_or(self.body.len());
        let head = self.head.join("\r\n");
        let end = format!("content-length: {length}\r\nconnection: close\r\n\r\n");
        stream.write_all(format!("{head}\r\n{end}").as_bytes())?;
        stream.write_all(&self.body)
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.head[0].split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Answers with another status.
    pub(crate) fn set_status(&mut self, status: &str) {
        self.head[0] = format!("HTTP/1.1 {status}");
    }

    /// The body, which is JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {:?} {:?}", self.head, self.body))
    }
}

/// Sends one request and gives the answer.
#[track_caller]
pub(crate) fn ask(address: &str, line: &str, headers: &[String], body: &[u8]) -> Message {
    let mut head = vec![format!("{line} HTTP/1.1"), format!("host: {address}")];
    head.extend_from_slice(headers);
    let stream = TcpStream::connect(address).unwrap();
    Message { head, body: body.to_vec(), said_bytes: None }.write(&stream).unwrap();
    Message::read(&stream).unwrap()
}

/// What a proxy makes of an answer, given the request's first line.
type Lie = Box<dyn Fn(&str, &mut Message) + Send>;

/// Stands in front of a server and alters its answers.
pub(crate) struct Proxy {
    address: String,
    behind: Arc<Mutex<Option<String>>>,
    lie: Arc<Mutex<Lie>>,
}

impl Proxy {
    /// A proxy that answers nothing yet; its thread ends with the process.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let behind = Arc::<Mutex<Option<String>>>::default();
        let lie: Arc<Mutex<Lie>> = Arc::new(Mutex::new(Box::new(|_, _| {})));
        let shared = (Arc::clone(&behind), Arc::clone(&lie));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (behind, lie) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                let Some(behind) = behind.lock().unwrap().clone() else { continue };
                // Whoever asks may go away in the middle.
                std::thread::spawn(move || pass(&stream.ok()?, &behind, &lie));
            }
        });
        Self { address, behind, lie }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on asks the server there.
    pub(crate) fn stand_before(&self, address: &str) {
        *self.behind.lock().unwrap() = Some(address.to_owned());
    }

    /// From now on alters answers so.
    pub(crate) fn tell(&self, lie: impl Fn(&str, &mut Message) + Send + 'static) {
        *self.lie.lock().unwrap() = Box::new(lie);
    }
}

fn pass(client: &TcpStream, behind: &str, lie: &Mutex<Lie>) -> Option<()> {
    let request = Message::read(client)?;
    let server = TcpStream::connect(behind).ok()?;
    request.write(&server).ok()?;
    let mut answer = Message::read(&server)?;
    lie.lock().unwrap()(&request.head[0], &mut answer);
    answer.write(client).ok()
}
