//! The stock, in PostgreSQL. One connection, made again when it is lost; the
//! last answer is kept, so that the shop stays open while the database restarts.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

/// How long the database may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to leave a database alone that did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Something to buy.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// What it is.
    pub name: String,
    /// Price in cents.
    pub price: i32,
    /// How many are left.
    pub amount: i32,
}

/// What is known of the stock.
#[derive(Clone, Debug, Default)]
pub struct Items {
    /// As last read.
    pub list: Vec<Item>,
    /// Why it could not be read just now.
    pub trouble: Option<String>,
}

impl Items {
    /// The list, if it was read just now.
    pub fn fresh(self) -> Result<Vec<Item>, String> {
        self.trouble.map_or(Ok(self.list), Err)
    }
}

/// The database.
pub struct Stock {
    config: Config,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<Client>,
    known: Vec<Item>,
    failed: Option<(Instant, String)>,
}

impl Stock {
    /// Where `DATABASE_HOST`, `DATABASE_PORT`, `DATABASE_NAME`, `DATABASE_USER` and `DATABASE_PASSWORD` say.
    pub fn from_environment() -> Self {
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let mut config = Config::new();
        config
            .host(variable("DATABASE_HOST", "stock"))
            .port(variable("DATABASE_PORT", "5432").parse().unwrap_or(5432))
            .dbname(variable("DATABASE_NAME", "shop"))
            .user(variable("DATABASE_USER", "shop"))
            .password(variable("DATABASE_PASSWORD", ""))
            .connect_timeout(PATIENCE);
        Stock {
            config,
            state: Mutex::default(),
        }
    }

    /// What is in stock.
    pub async fn items(&self) -> Items {
        let mut state = self.state.lock().await;
        let read = self.with_client(&mut state, async |client| {
            client
                .query("SELECT name, price, amount FROM stock ORDER BY name", &[])
                .await
        });
        let trouble = match read.await {
            Ok(rows) => {
                let item = |r: &tokio_postgres::Row| Item {
                    name: r.get(0),
                    price: r.get(1),
                    amount: r.get(2),
                };
                state.known = rows.iter().map(item).collect();
                None
            }
            Err(why) => Some(why),
        };
        Items {
            list: state.known.clone(),
            trouble,
        }
    }

    /// Sells one of something; false when none is left.
    pub async fn take_one(&self, name: &str) -> Result<bool, String> {
        let mut state = self.state.lock().await;
        let sold = self.with_client(&mut state, async |client| {
            let sql = "UPDATE stock SET amount = amount - 1 WHERE name = $1 AND amount > 0";
            client.execute(sql, &[&name]).await
        });
        Ok(sold.await? == 1)
    }

    async fn with_client<T>(
        &self,
        state: &mut State,
        work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, String> {
        if let Some((when, why)) = &state.failed
            && when.elapsed() < PAUSE
        {
            return Err(why.clone());
        }
        let done = tokio::time::timeout(PATIENCE, async {
            if state.client.as_ref().is_none_or(Client::is_closed) {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(connection);
                state.client = Some(client);
            }
            match &state.client {
                Some(client) => work(client).await.map(Some),
                None => Ok(None),
            }
        });
        let why = match done.await {
            Ok(Ok(Some(value))) => {
                state.failed = None;
                return Ok(value);
            }
            Ok(Ok(None)) => "no connection".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database does not answer".to_owned(),
        };
        state.client = None;
        state.failed = Some((Instant::now(), why.clone()));
        Err(why)
    }
}
