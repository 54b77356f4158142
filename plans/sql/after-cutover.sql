-- What the application's new release expects of its database; executed once writers are on the target.
CREATE INDEX IF NOT EXISTS orders_by_customer ON public.orders (customer_id);
CREATE OR REPLACE FUNCTION public.schema_release() RETURNS int LANGUAGE sql AS $$ SELECT 42 $$;
