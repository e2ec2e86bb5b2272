//! Whoever speaks something else, or stands in between.

use std::sync::Arc;
use std::time::Duration;

use arc_server::Error;
use arc_server::serve::Transport;
use arc_server::wire::{Code, Refusal};
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::world::{World, client, distrust, owner};

#[tokio::test]
async fn the_secret_is_not_sent_to_whoever_shows_another_certificate() {
    arc_server::tls::install_provider();
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    let key = KeyPair::generate().unwrap();
    let shown =
        CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![shown.into()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        if let Ok(mut stream) = acceptor.accept(stream).await {
            // The client says goodbye with an alert, which is an error here.
            let _ = stream.read_to_end(&mut heard).await;
        }
        heard
    });
    let said = distrust(client(&url, &coordinator.owner).vault().await);
    assert!(said.contains(&url) && said.contains("somebody in between"), "{said}");
    assert_eq!(heard.await.unwrap(), b"");
}

#[tokio::test]
async fn plain_and_tls_tell_each_other_apart() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    let plain_url = format!("http://{}", coordinator.running.address);
    match client(&plain_url, &coordinator.owner).vault().await {
        Err(Error::Refused { refusal: Refusal { code: Code::Protocol, message, .. }, .. }) => {
            assert!(message.contains("https://"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // With a body that nobody reads to its end.
    let mut stream = TcpStream::connect(coordinator.running.address).await.unwrap();
    let request = b"PUT /v1/shards/x HTTP/1.1\r\ncontent-length: 40000\r\n\r\n";
    stream.write_all(&[&request[..], &[7; 40_000]].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("https://"), "{answer}");

    let other = World::new();
    let plain = other.coordinator(Transport::Plain).await;
    let tls_url = format!("https://{}", plain.running.address);
    match client(&tls_url, &coordinator.owner).vault().await {
        Err(Error::Nonsense { why, .. }) => assert!(why.contains("does not speak TLS"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn garbage_and_silence_cost_a_connection_for_a_while() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    let address = coordinator.running.address;
    // The first byte is that of a handshake, or of nothing.
    let starts: [&[u8]; 5] = [b"", &[22], &[22, 3, 1, 0xff, 0xff], &[0; 300], &[22; 70_000]];
    let mut streams = Vec::new();
    for bytes in starts {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // It may be closed before all of it was sent.
            let _ = stream.write_all(bytes).await;
            streams.push(stream);
        }
    }
    owner(&coordinator).vault().await.unwrap();
    // Handshakes have 10 s.
    for stream in &mut streams {
        let mut said = Vec::new();
        let closed = stream.read_to_end(&mut said);
        let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
        assert!(closed.is_ok(), "a connection is held for ever");
    }
    // One that is not done with its handshake holds up no stop.
    let _half = TcpStream::connect(address).await.unwrap();
    owner(&coordinator).vault().await.unwrap();
    coordinator.stop().await;
}
