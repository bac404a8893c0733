# One machine with a GPU that is the whole cluster: it runs jobs, trains, and keeps MLflow in a SQLite file.

locals {
  project = "${path.module}/../../../.."
}

module "network" {
  source = "../../modules/network"

  name               = var.name
  region             = var.region
  availability_zones = ["${var.region}${var.zone}"]
}

module "storage" {
  source = "../../modules/storage"

  name    = var.name
  protect = var.protect

  bootstrap_files = {
    "node.sh"           = "${path.module}/../../modules/ray/templates/node.sh"
    "head.sh"           = "${path.module}/../../modules/ray/templates/head.sh"
    "mlflow_server.sh"  = "${path.module}/../../modules/mlflow/templates/server.sh"
    "requirements.lock" = "${local.project}/requirements.lock"
  }
}

module "ray" {
  source = "../../modules/ray"

  name                      = var.name
  region                    = var.region
  vpc_id                    = module.network.vpc_id
  head_subnet_id            = module.network.private_subnet_ids[0]
  head_private_ip           = module.network.head_private_ip
  worker_subnet_ids         = module.network.private_subnet_ids
  worker_availability_zones = module.network.availability_zones
  kms_key_arn               = module.storage.kms_key_arn
  node_settings             = module.mlflow.node_settings
  head_instance_type        = var.instance_type
  head_volume_gb            = var.volume_gb
  image                     = var.image
  max_workers               = 0
  protect                   = var.protect

  buckets = {
    data        = module.storage.data_bucket
    checkpoints = module.storage.checkpoints_bucket
    mlflow      = module.storage.mlflow_bucket
  }
}

module "mlflow" {
  source = "../../modules/mlflow"

  name                    = var.name
  region                  = var.region
  vpc_id                  = module.network.vpc_id
  subnet_ids              = module.network.private_subnet_ids
  nodes_security_group_id = module.ray.security_group_id
  server_role_name        = module.ray.head_role_name
  artifacts_uri           = module.storage.mlflow_artifacts_uri
  kms_key_arn             = module.storage.kms_key_arn
  database                = false
  protect                 = var.protect
}

module "budget" {
  source = "../../modules/budget"

  name        = var.name
  monthly_usd = var.monthly_budget_usd
  emails      = var.alert_emails
}
