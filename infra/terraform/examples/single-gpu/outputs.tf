output "head_instance_id" {
  description = "Instance id of the machine."
  value       = module.ray.head_instance_id
}

output "login_command" {
  description = "A shell on the machine."
  value       = module.ray.login_command
}

output "tunnel_command" {
  description = "Dashboard and Jobs API at http://127.0.0.1:8265, while it runs."
  value       = module.ray.tunnel_command
}

output "terminate_command" {
  description = "Ends the machine, before `terraform destroy`."
  value       = module.ray.terminate_command
}

output "secret_arn" {
  description = "Secret with Ray's token."
  value       = module.ray.secret_arn
}

output "data_bucket" {
  description = "Put your data under data/ of this bucket."
  value       = module.storage.data_bucket
}

output "store_uri" {
  description = "Trunkline's store (store=, TRUNKLINE_STORE)."
  value       = module.storage.store_uri
}

output "tracking_uri" {
  description = "MLflow, from inside the cluster."
  value       = "http://${module.ray.head_private_ip}:5000"
}

output "trunkline_cluster_conf" {
  description = "A file for conf/cluster/. terraform output -raw trunkline_cluster_conf > conf/cluster/mine.yaml"
  value       = <<-YAML
    # ${var.instance_type}: one training process per GPU. Made by Terraform; cluster=<this file's name>.
    address: null
    workers: ${max(1, module.ray.head_gpus)}
    cpus_per_worker: 1
    gpus_per_worker: 1
    accelerator: null
    max_failures: 3
    shard_retries: 3
    price_per_core_hour: null
  YAML
}

output "hourly_cost_note" {
  description = "What an hour costs, roughly."
  value       = <<-TEXT
    Roughly, on demand in us-east-1, without tax: look prices up before you decide by them.
    always:     machine ${coalesce(module.ray.usd_per_hour.head, "?")} + NAT gateway 0.05 USD an hour, disk and address some 20 USD a month
    by use:     S3 0.023 USD a gigabyte and month; traffic through the NAT gateway 0.045 USD a gigabyte (S3 goes past it)
  TEXT
}
